"""TensorRT-RTX's own runtime, as far as it works without a GPU: its names, and what it says of engines and of
the driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg.devices.machine import detect
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt.rtx import TensorRtRtx
from edgeseg.engines.tensorrt.rtx_engine import open_engine
from edgeseg.errors import BundleError, Unsupported
from fake_cuda import FakeLibrary
from fake_rtx import EngineInvalidityDiagnostics, EngineValidity, fake_rtx
from tiny import tiny_mask, tiny_program

pytestmark = pytest.mark.trt


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="pip install 'edgeseg[rtx]'")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, rtx: Any) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    return TensorRtRtx().compile(tiny_program(folder / "tiny.onnx"), folder, {"compute_capability": "8.9"})[0]


def test_the_double_has_the_names_of_the_real_one(rtx: Any) -> None:
    double = fake_rtx(FakeLibrary(), (1, 2, 2, 3), (1, 1, 1), tiny_mask)
    used = {
        "Runtime": ("engine_header_size", "get_engine_validity", "deserialize_cuda_engine"),
        "ICudaEngine": (
            "create_runtime_config",
            "create_execution_context",
            "get_tensor_mode",
            "num_io_tensors",
        ),
        "IRuntimeConfig": ("create_runtime_cache", "set_runtime_cache", "get_runtime_cache"),
        "IRuntimeCache": ("deserialize", "serialize"),
        "IExecutionContext": ("execute_async_v3", "set_tensor_address", "is_stream_capturable"),
    }
    assert not [
        f"{kind}.{name}"
        for kind, names in used.items()
        for name in names
        if not hasattr(getattr(rtx, kind), name)
    ]
    assert "runtime_config: " in rtx.ICudaEngine.create_execution_context.__doc__
    for kind, fake in (
        ("EngineValidity", EngineValidity),
        ("EngineInvalidityDiagnostics", EngineInvalidityDiagnostics),
    ):
        assert {name: int(value) for name, value in getattr(rtx, kind).__members__.items()} == dict(
            fake.__members__
        )
    logger = type("Logger", (rtx.ILogger,), {"__init__": rtx.ILogger.__init__, "log": lambda *said: None})()
    assert rtx.Runtime(logger).engine_header_size == double.Runtime.engine_header_size


@pytest.mark.skipif(bool(detect().gpus), reason="here is a GPU")
def test_without_a_driver_it_is_the_driver_that_is_told(rtx: Any, engine: Path) -> None:
    with pytest.raises(Unsupported, match=r"cannot use the GPU: .*driver") as refused:
        open_engine(rtx, engine, capability="8.9")
    assert "edgeseg doctor" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"no engine", None], ids=["empty", "garbage", "cut short"])
def test_what_is_no_engine(content: bytes | None, rtx: Any, engine: Path, tmp_path: Path) -> None:
    broken = tmp_path / "engine.rtx"
    broken.write_bytes(engine.read_bytes()[:40] if content is None else content)
    with pytest.raises(BundleError, match=r"engine\.rtx is no engine of TensorRT-RTX") as refused:
        open_engine(rtx, broken, capability="8.9")
    assert refused.value.hint == "edgeseg build BUNDLE --force"


@pytest.mark.skipif(bool(detect().gpus), reason="here is a GPU")
def test_nvidias_own_cuda_runtime_without_a_driver() -> None:
    try:
        cuda = Cuda()
    except Unsupported as error:
        pytest.skip(str(error))
    with pytest.raises(Unsupported, match="driver is missing, or older") as refused:
        cuda.capabilities()
    assert "start the machine again" in refused.value.hint
