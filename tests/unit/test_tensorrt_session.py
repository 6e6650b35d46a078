"""The session on TensorRT engines, and the CUDA runtime behind it, with both in host memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.engines import cudart
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt_session import TensorRtSession
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
    with pytest.raises(BundleError, match=r"tensorrt 10\.3\.0 cannot open .*engine\.trt: version tag does not match") as refused:
        opened(program, tmp_path, library, refuse="version tag does not match")
    assert refused.value.hint == "edgeseg build BUNDLE --force"
    assert not library.live


def test_an_engine_of_another_program(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    with pytest.raises(BundleError, match="is not an engine of its program"):
        opened(program, tmp_path, library, out_shape=(1, 8, 8))
    assert not library.live


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags"])
def test_too_little_memory_frees_what_was_taken(tmp_path: Path, function: str) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    library.fail = function
    with pytest.raises(BundleError, match=f"{function}: out of memory"):
        opened(program, tmp_path, library)
    assert not library.live


def test_a_failed_inference_is_told_and_leaves_no_capture_open(tmp_path: Path) -> None:
    library, program = FakeLibrary(), tiny_program(tmp_path / "tiny.onnx")
    with opened(program, tmp_path, library, fail=True) as session, pytest.raises(BundleError, match="failed on an image"):
        session.infer(np.zeros((32, 64, 3), np.uint8))
    assert not library.live

    library.capturing = None
    cuda, stream = Cuda(library), Cuda(library).stream()
    with pytest.raises(RuntimeError, match="no"):
        cuda.record(_raise, stream)
    assert library.capturing is None


def _raise() -> None:
    raise RuntimeError("no")


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudart, "_LIBRARIES", ("libnothing-of-this-name.so",))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr(cudart, "_in_packages", lambda: iter(()))
    with pytest.raises(Unsupported, match="libcudart"):
        Cuda()


def test_free_memory() -> None:
    assert Cuda(FakeLibrary()).free_bytes() == 1 << 30
