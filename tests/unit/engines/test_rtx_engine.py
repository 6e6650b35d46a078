"""Opening TensorRT-RTX engines on a card that is none: which GPU, what the runtime says, and the kernels that
are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt.rtx import TensorRtRtx
from edgeseg.engines.tensorrt.rtx_engine import Kernels
from edgeseg.engines.tensorrt.session import TensorRtSession
from edgeseg.errors import BundleError, EngineMismatch, Unsupported
from fake_cuda import FakeLibrary
from fake_rtx import EngineInvalidityDiagnostics as Flag
from fake_rtx import EngineValidity, IRuntimeCache, IRuntimeConfig, fake_rtx
from tiny import tiny_program

IMAGE = np.zeros((32, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/edgeseg/tensorrt"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Open an engine for SM89 as another process would. Keywords are those of `fake_rtx`; `library` is the
    CUDA runtime.
    """
    program = tiny_program(tmp_path / "tiny.onnx")
    engine = tmp_path / "engine.rtx"
    engine.write_bytes(b"engine" * 100)

    def started(library: FakeLibrary | None = None, **runtime: Any) -> TensorRtSession:
        library = library or FakeLibrary()
        shapes = program.image.input_shape, (1, *program.mask_shape)
        rtx = fake_rtx(library, *shapes, lambda image: image[:, ::2, ::2, 0], **runtime)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
        session = TensorRtRtx(cuda=Cuda(library)).load(program, [engine], {"compute_capability": "8.9"})
        session.kernels = rtx.caches[-1]  # type: ignore[attr-defined]  # a weak reference: the session must keep it alive
        return session

    return started


def test_kernels_are_made_once(start: Any, cache: Path) -> None:
    compiled = []
    for _ in range(2):
        with start() as session:
            for _ in range(3):
                assert not session.infer(IMAGE).any()
            compiled.append(session.kernels().compiled)
    assert compiled == [1, 0]
    (kept,) = cache.iterdir()
    assert kept.suffix == ".kernels"


def test_they_are_kept_after_the_first_image_not_at_the_end(start: Any, cache: Path) -> None:
    with start() as session:
        assert not cache.exists()
        session.infer(IMAGE)
        (kept,) = cache.iterdir()
        before = kept.stat().st_mtime_ns
        session.infer(IMAGE)
        session.infer(IMAGE)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"version": "1.8.0.1"}, {"card": b"another card of the same generation"}])
def test_those_of_another_release_or_card_are_made_anew(
    change: dict[str, Any], start: Any, cache: Path
) -> None:
    for runtime in ({}, change, change):
        with start(**runtime) as session:
            session.infer(IMAGE)
            compiled = session.kernels().compiled
    assert compiled == 0
    assert len(list(cache.iterdir())) == 1


def test_a_cache_folder_that_cannot_be_written_fails_nothing(start: Any, cache: Path) -> None:
    cache.parent.parent.write_text("a file in its place")
    with start() as session:
        assert not session.infer(IMAGE).any()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=40), st.binary(max_size=9).map(lambda rest: b"here:" + rest)))
def test_any_file_is_taken_or_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.kernels"
    path.write_bytes(content)
    for compiled in (content != b"here:kernels", 0):
        caches: list[Any] = []
        kernels = Kernels(IRuntimeConfig(caches, b"here:"), path)
        (made,) = (reference() for reference in caches)
        assert isinstance(made, IRuntimeCache)
        made.make(b"kernels")
        kernels.keep()
        assert made.compiled == compiled
        assert path.read_bytes() == b"here:kernels"


@pytest.mark.parametrize(
    ("kind", "fails"), [(IRuntimeCache, "serialize"), (IRuntimeConfig, "create_runtime_cache")]
)
def test_a_runtime_that_keeps_no_kernels(
    kind: type, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, fails, lambda self: None)
    path = tmp_path / "x.kernels"
    path.write_bytes(b"of another card")
    Kernels(IRuntimeConfig([], b"here:"), path).keep()
    assert path.read_bytes() == b"of another card"


def test_the_context_goes_before_the_kernels_that_it_uses(start: Any) -> None:
    with start() as session:
        session.infer(IMAGE)
    assert sys.modules["tensorrt_rtx"].freed == ["context", "cache"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("recordable", [True, False])
def test_work_is_recorded_where_the_runtime_allows_it(recordable: bool, start: Any) -> None:
    library = FakeLibrary()
    with start(library, recordable=recordable) as session:
        for _ in range(3):
            session.infer(IMAGE)
    assert library.launches == (2 if recordable else 0)
    assert not library.live


@pytest.mark.parametrize(("cards", "device"), [(("8.9",), 0), (("8.6", "8.9", "8.9"), 1)])
def test_it_runs_on_the_first_card_that_it_is_for(cards: tuple[str, ...], device: int, start: Any) -> None:
    library = FakeLibrary(cards)
    with start(library) as session:
        assert library.device == device
        library.device = 0  # as it is in every other thread
        session.infer(IMAGE)
        assert library.device == device


def test_no_such_card_for_this_process(start: Any) -> None:
    with pytest.raises(
        EngineMismatch, match=r"built for NVIDIA GPU of .* 8\.9; this is NVIDIA GPU of .* 8\.6"
    ) as refused:
        start(FakeLibrary(("8.6", "8.6")))
    assert refused.value.hint == "edgeseg build BUNDLE"


@pytest.mark.parametrize(
    ("status", "told"), [(35, "driver is missing, or older"), (100, "no GPU that CUDA may use")]
)
def test_no_driver_that_fits(status: int, told: str, start: Any) -> None:
    library = FakeLibrary()
    library.status = status
    with pytest.raises(Unsupported, match=told) as refused:
        start(library)
    assert "edgeseg doctor" in refused.value.hint


@pytest.mark.parametrize(
    ("flags", "kind", "told", "hint"),
    [
        (
            Flag.VERSION_MISMATCH,
            EngineMismatch,
            r"another release .*; this is .* 8\.9 with TensorRT-RTX 1\.7",
            "build BUNDLE",
        ),
        (
            Flag.UNSUPPORTED_CC,
            EngineMismatch,
            r"another compute capability; this is compute capability 8\.9",
            "build BUNDLE",
        ),
        (
            Flag.VERSION_MISMATCH | Flag.UNSUPPORTED_CC,
            EngineMismatch,
            r"release of TensorRT-RTX and another",
            "build BUNDLE",
        ),
        (Flag.OLD_CUDA_DRIVER, Unsupported, "driver is too old", "doctor"),
        (Flag.OLD_CUDA_RUNTIME | Flag.VERSION_MISMATCH, Unsupported, "runtime is too old", "doctor"),
        (Flag.CUDA_ERROR, Unsupported, "CUDA is not installed as it should be", "doctor"),
        (0, Unsupported, "cannot use the GPU: it gives no reason", "doctor"),
        (Flag.INSUFFICIENT_GPU_MEMORY, Unsupported, "too little memory", "smaller model"),
        (Flag.MALFORMED_ENGINE, BundleError, "is no engine of TensorRT-RTX", "--force"),
    ],
)
def test_what_the_runtime_says_before_it_reads_the_engine(
    flags: int, kind: type[Exception], told: str, hint: str, start: Any
) -> None:
    library = FakeLibrary()
    with pytest.raises(kind, match=told) as refused:
        start(library, validity=EngineValidity.INVALID, flags=flags)
    assert hint in refused.value.hint  # type: ignore[attr-defined]
    assert not library.live


def test_what_it_logs_is_told_too(start: Any) -> None:
    with pytest.raises(Unsupported, match="cannot use the GPU: cudaError 35"):
        start(validity=EngineValidity.INVALID, told="cudaError 35")


def test_a_newer_card_than_the_release_knows(start: Any) -> None:
    with start(validity=EngineValidity.SUBOPTIMAL) as session:
        assert not session.infer(IMAGE).any()
