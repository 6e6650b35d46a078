"""The session on TensorRT engines, and the CUDA runtime behind it, with both in host memory."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg.engines import cudart
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt.session import TensorRtSession
from edgeseg.errors import BundleError, Unsupported
from edgeseg.specs import Program
from fake_cuda import FakeLibrary, fake_trt
from tiny import tiny_program


def darkest(image: np.ndarray) -> np.ndarray:
    """Of each 2 x 2 block, the darkest value of the first channel: depends on every pixel's place."""
    first = image[..., 0] if image.shape[-1] == 3 else image[:, 0]
    return first.reshape(1, 16, 2, 32, 2).min((2, 4))


def opened(program: Program, folder: Path, library: FakeLibrary, **options: Any) -> TensorRtSession:
    engine = folder / "engine.trt"
    engine.write_bytes(b"engine")
    session = {name: options.pop(name) for name in ("cuda_graph",) if name in options}
    out_shape = options.pop("out_shape", (1, *program.mask_shape))
    trt = fake_trt(library, program.image.input_shape, out_shape, darkest, **options)
    return TensorRtSession(program, trt, engine, Cuda(library), **session)


@pytest.mark.parametrize("layout", ["HWC", "NCHW"])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_every_image_gets_its_own_mask(tmp_path: Path, layout: str, cuda_graph: bool) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx", layout)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 64, 3), np.uint8)
    with opened(program, tmp_path, library, cuda_graph=cuda_graph) as session:
        masks = [session.infer(image) for image in images]
    for image, mask in zip(images, masks, strict=True):
        assert np.array_equal(mask, darkest(image[None])[0]), "no mask is overwritten by the next"
    assert library.launches == (3 if cuda_graph else 0), "the first run is queued, the others launched"
    assert not library.live, "everything is freed"


def test_an_engine_that_cannot_be_opened(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    with pytest.raises(
        BundleError, match=r"tensorrt 10\.3\.0 cannot open .*engine\.trt: version tag does not match"
    ) as refused:
        opened(program, tmp_path, library, refuse="version tag does not match")
    assert refused.value.hint == "edgeseg build BUNDLE --force"
    assert not library.live


def test_an_engine_of_another_program(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    with pytest.raises(BundleError, match="is not an engine of its program"):
        opened(program, tmp_path, library, out_shape=(1, 8, 8))
    assert not library.live


@pytest.mark.parametrize(
    ("function", "before"),
    [
        ("cudaMalloc", 0),
        ("cudaMalloc", 1),
        ("cudaMallocHost", 0),
        ("cudaMallocHost", 1),
        ("cudaStreamCreateWithFlags", 0),
    ],
)
def test_too_little_memory_frees_what_was_taken(tmp_path: Path, function: str, before: int) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    library.fail, library.fail_after = function, before
    with pytest.raises(BundleError, match=f"{function}: out of memory"):
        opened(program, tmp_path, library)
    assert not library.live
    assert library.last_error == 0, "TensorRT asks for the last error, and must not find ours"


@pytest.mark.parametrize(
    "reason", ["not recordable", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"]
)
def test_an_engine_that_cannot_be_recorded_is_queued(tmp_path: Path, reason: str) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    library.fail = reason
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), np.uint8)
    with opened(program, tmp_path, library, recordable=reason != "not recordable") as session:
        for image in images:
            assert np.array_equal(session.infer(image), darkest(image[None])[0])
    assert (library.launches, library.live, library.last_error) == (0, {}, 0)


def test_a_device_that_falls_off_is_told_once(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    session = opened(program, tmp_path, library)
    library.status = 719  # cudaErrorLaunchFailure: sticky, every call answers with it
    with pytest.raises(BundleError, match="cudaMemcpyAsync: unknown error"):
        session.infer(np.zeros((32, 64, 3), np.uint8))
    session.close()


def test_a_failed_inference_is_told_and_leaves_no_capture_open(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    with (
        opened(program, tmp_path, library, fail=True) as session,
        pytest.raises(BundleError, match="failed on an image"),
    ):
        session.infer(np.zeros((32, 64, 3), np.uint8))
    assert not library.live

    library.capturing = None
    cuda, stream = Cuda(library), Cuda(library).stream()
    with pytest.raises(RuntimeError, match="no"):
        cuda.record(_raise, stream)
    assert library.capturing is None
    assert list(library.live) == [stream], "what was recorded up to there is let go"


def _raise() -> None:
    raise RuntimeError("no")


def libraries(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    """These are all the libraries that can be loaded, in this order."""

    def load(name: str) -> Any:
        if name not in found:
            raise OSError(name)
        return found[name]

    monkeypatch.setattr(cudart, "_candidates", lambda: iter(("libmissing.so", *found)))
    monkeypatch.setattr("ctypes.CDLL", load)


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {"libcudart.so.10.2": object()})  # without the functions
    with pytest.raises(Unsupported, match="libcudart"):
        Cuda()


def test_the_library_that_the_driver_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    newer, older = (
        FakeLibrary(("8.6",), driver=12040, runtime=13050),
        FakeLibrary(("8.7",), driver=12040, runtime=12090),
    )
    libraries(monkeypatch, {"libcudart.so.13": newer, "libcudart.so.12": older})
    assert Cuda().capabilities() == ["8.7"]
    newer.status = 35
    libraries(monkeypatch, {"libcudart.so.13": newer})
    with pytest.raises(Unsupported, match="driver is missing, or older"):
        Cuda().capabilities()


def test_where_libraries_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("toolkit/libcudart.so.12", "nvidia/cu13/lib/libcudart.so.13"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"")
    monkeypatch.setattr(cudart, "_TOOLKIT", tmp_path / "toolkit")
    monkeypatch.setitem(sys.modules, "nvidia", SimpleNamespace(__path__=[str(tmp_path / "nvidia")]))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.14")
    found = [Path(name).name for name in cudart._candidates()]
    assert found[-3:] == ["libcudart.so.12", "libcudart.so.13", "libcudart.so.14"]
    assert found[0] == "libcudart.so"


def test_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8000000 kB\nMemFree: 1048576 kB\nMemAvailable: 3145728 kB\n")
    monkeypatch.setattr(cudart, "MEMINFO", tmp_path / "meminfo")
    assert Cuda(FakeLibrary()).free_bytes() == 1 << 30
    assert Cuda(FakeLibrary(integrated=True)).free_bytes() == 3 << 30, "what holds copies of files can be had"
    monkeypatch.setattr(cudart, "memory_limit", lambda: 2 << 30)
    assert Cuda(FakeLibrary(integrated=True)).free_bytes() == 2 << 30, "a container's"
    monkeypatch.setattr(cudart, "MEMINFO", tmp_path / "missing")
    assert Cuda(FakeLibrary(integrated=True)).free_bytes() == 1 << 30
