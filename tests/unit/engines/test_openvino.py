"""What is OpenVINO's own: the precision is named, and one that the processor lacks is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgeseg.devices.instructions import processor
from edgeseg.devices.machine import detect
from edgeseg.engines import table
from edgeseg.engines.openvino import PRECISION_HINTS, OpenVino
from edgeseg.errors import BuildError, MissingDependency, Unsupported
from locations import REPOSITORY, SUPPORT
from tiny import tiny_program


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency) as caught:
        table.fingerprint("openvino", detect())
    assert caught.value.hint == "pip install 'edgeseg[openvino]'"


@pytest.mark.parametrize("options", [{}, {"precision_hint": "f32"}])
def test_float32_unless_asked(options: dict[str, str], tmp_path: Path) -> None:
    """Also where the processor has bfloat16, which OpenVINO would take by itself."""
    pytest.importorskip("openvino")
    program, chosen = tiny_program(tmp_path / "tiny.onnx"), {"threads": 2, **options}
    runtime = OpenVino()
    with runtime.load(program, runtime.compile(program, tmp_path, chosen), chosen) as session:
        compiled = session._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_an_engine_in_bfloat16_opens_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    runtime = OpenVino()
    if {"precision_hint": "bf16"} not in runtime.variants():
        pytest.skip(
            f"OpenVINO computes in no bfloat16 on {processor().model}; what is not there is refused, below"
        )
    program, chosen = tiny_program(tmp_path / "tiny.onnx"), {"threads": 1, "precision_hint": "bf16"}
    with runtime.load(program, runtime.compile(program, tmp_path, chosen), chosen) as session:
        assert (
            session._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT").to_string()
            == "bf16"
        )


@pytest.mark.parametrize("hint", ["bf16", "int4"])
def test_a_precision_that_is_not_there_is_refused(
    hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(OpenVino, "variants", lambda self: [{"precision_hint": "f32"}])
    with pytest.raises(BuildError, match=f"does not compute in '{hint}'"):
        OpenVino().compile(
            tiny_program(tmp_path / "tiny.onnx"), tmp_path, {"threads": 1, "precision_hint": hint}
        )
    assert not (tmp_path / "engine.blob").exists()


def test_a_precision_that_is_wanted_is_the_only_one() -> None:
    pytest.importorskip("openvino")
    assert OpenVino().variants({"precision_hint": "f32", "threads": 3}) == [
        {"precision_hint": "f32", "threads": 3}
    ]
    lacking = set(PRECISION_HINTS) - {variant["precision_hint"] for variant in OpenVino().variants()}
    for hint in lacking:
        with pytest.raises(Unsupported, match=f"does not compute in {hint} on this processor") as refused:
            OpenVino().variants({"precision_hint": hint})
        assert "f32" in refused.value.hint


def test_a_session_closed_on_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    """The runtime's stack for signal handlers must outlive its last session, wherever that ends."""
    pytest.importorskip("openvino")
    program = """
        import signal, sys, threading
        from pathlib import Path
        from edgeseg.engines.openvino import PRECISION_HINTS, OpenVino
        from tiny import tiny_program

        made, folder = tiny_program(Path(sys.argv[1]) / "p.onnx"), Path(sys.argv[1])
        sessions = [OpenVino().load(made, OpenVino().compile(made, folder, {"threads": 1}), {"threads": 1})]
        ending = threading.Thread(target=lambda: sessions.pop().close())
        ending.start()
        ending.join()
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        signal.raise_signal(signal.SIGUSR1)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(REPOSITORY)])}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "handled"), ended.stderr


def test_it_tells_nobody_that_it_was_imported(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    script = """
        import sys
        from edgeseg.engines.openvino import OpenVino
        OpenVino().version()
        assert "openvino" in sys.modules
        assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
        import openvino_telemetry  # others may have it
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "HOME": str(tmp_path)}, check=True
    )
    assert list(tmp_path.iterdir()) == []
