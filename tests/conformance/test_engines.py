"""What every runtime of the engine table must do. A runtime that is not installed is skipped, with what it
says itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.contracts import EngineBackend, Session
from edgeseg.engines.table import ENGINES, backend
from edgeseg.errors import BuildError, BundleError, Unsupported
from edgeseg.images import resize_image, resize_mask
from edgeseg.specs import Form, Program
from edgeseg.testing.engines import check_backend
from edgeseg.testing.fakes import FakeBackend
from tiny import SIZE_HW, outside_weights, tiny_image, tiny_mask, tiny_program

OPTIONS = {"threads": 1}
IMAGES = [tiny_image(seed) for seed in range(3)]
Opener = Callable[[Program], Session]


@pytest.fixture(params=sorted(ENGINES.rows))
def runtime(request: pytest.FixtureRequest) -> EngineBackend:
    found = backend(request.param)
    try:
        found.version()
    except Unsupported as error:
        pytest.skip(str(error))
    if not found.variants():
        pytest.skip(f"{request.param} runs nothing on this machine")
    return found


@pytest.fixture
def opened(runtime: EngineBackend, tmp_path: Path) -> Opener:
    def build_and_open(program: Program) -> Session:
        folder = tmp_path / "engine"
        folder.mkdir(exist_ok=True)
        return runtime.load(program, runtime.compile(program, folder, OPTIONS), OPTIONS)

    return build_and_open


@pytest.fixture
def session(opened: Opener, tmp_path: Path) -> Session:
    return opened(tiny_program(tmp_path / "tiny.onnx"))


def test_name_and_version(runtime: EngineBackend) -> None:
    assert runtime.name in ENGINES
    assert runtime.version()[0].isdigit()


@pytest.mark.parametrize("name", ENGINES.rows)
def test_an_export_can_write_what_it_wants(name: str) -> None:
    exports = backend(name).exports
    assert exports["float"] in (Form.CPU, Form.CPU_OPENVINO, Form.GPU)
    assert exports.get("fp16", Form.GPU) == Form.GPU
    assert exports["int8"] in (Form.QDQ, Form.QDQ_HALF)


def test_it_keeps_the_contract(runtime: EngineBackend, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    program = tiny_program(tmp_path / "tiny.onnx")
    check_backend(runtime, program, IMAGES, tiny_mask, tmp_path / "engines")
    assert runtime.form_for("int8")


@pytest.mark.parametrize("layout", ["HWC", "NCHW"])
def test_answers_are_right(layout: str, opened: Opener, tmp_path: Path) -> None:
    with opened(tiny_program(tmp_path / "tiny.onnx", layout)) as session:
        assert isinstance(session, Session)
        for seed in range(3):
            image = tiny_image(seed)
            mask = session.infer(image)
            assert mask.dtype == np.uint8
            np.testing.assert_array_equal(mask, tiny_mask(image))


def test_compile_writes_only_where_it_may(runtime: EngineBackend, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    before = program.onnx_path.read_bytes()
    (tmp_path / "engine").mkdir()
    files = runtime.compile(program, tmp_path / "engine", OPTIONS)
    assert files
    assert {file.parent for file in files} == {tmp_path / "engine"}
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx", "engine"}
    assert program.onnx_path.read_bytes() == before


def test_the_engine_does_not_need_the_program_file(runtime: EngineBackend, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    files = runtime.compile(program, tmp_path, OPTIONS)
    program.onnx_path.unlink()
    with runtime.load(program, files, OPTIONS) as session:
        np.testing.assert_array_equal(session.infer(tiny_image()), tiny_mask(tiny_image()))


def test_weights_may_lie_in_a_file_beside_the_graph(runtime: EngineBackend, tmp_path: Path) -> None:
    program = outside_weights(tiny_program(tmp_path / "tiny.onnx"))
    (tmp_path / "engine").mkdir()
    files = runtime.compile(program, tmp_path / "engine", OPTIONS)
    program.onnx_path.unlink()
    program.blobs[0].unlink()
    with runtime.load(program, files, OPTIONS) as session:
        np.testing.assert_array_equal(session.infer(tiny_image()), tiny_mask(tiny_image()))


def test_any_memory_order(session: Session) -> None:
    image = tiny_image()
    wanted = tiny_mask(image)
    np.testing.assert_array_equal(session.infer(np.asfortranarray(image)), wanted)
    np.testing.assert_array_equal(session.infer(image[:, ::-1]), wanted[:, ::-1])
    image.flags.writeable = False
    np.testing.assert_array_equal(session.infer(image), wanted)


@pytest.mark.parametrize("size_hw", [SIZE_HW, (48, 100), (7, 5)])
def test_segment_takes_any_size(size_hw: tuple[int, int], session: Session) -> None:
    image = resize_image(tiny_image(), size_hw)
    mask = session.segment(image)
    np.testing.assert_array_equal(mask, resize_mask(tiny_mask(resize_image(image, SIZE_HW)), size_hw))
    assert (mask.shape, mask.dtype) == (size_hw, np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        tiny_image()[:-1],
        tiny_image().astype(np.float32),
        tiny_image()[:, :, 0],
        np.zeros((*SIZE_HW, 4), np.uint8),
    ],
    ids=["size", "dtype", "grey", "alpha"],
)
def test_infer_refuses_what_does_not_fit(image: np.ndarray, session: Session) -> None:
    with pytest.raises(ValueError, match="uint8"):
        session.infer(image)


def test_segment_refuses_what_is_no_image(session: Session) -> None:
    for image in (tiny_image()[:, :, 0], tiny_image().astype(np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            session.segment(image)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "garbage", "cut short"])
def test_broken_programs_and_engines_are_errors_of_ours(
    content: bytes | None, runtime: EngineBackend, tmp_path: Path
) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    files = runtime.compile(program, tmp_path, OPTIONS)
    for path in (*files, program.onnx_path):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BundleError) as refused:
        runtime.load(program, files, OPTIONS)
    assert refused.value.hint.startswith("edgeseg build")
    with pytest.raises(BuildError, match=r"tiny\.onnx"):
        runtime.compile(program, tmp_path, OPTIONS)


def test_a_program_that_is_not_what_it_says(runtime: EngineBackend, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    files = runtime.compile(program, tmp_path, OPTIONS)
    for wrong in (
        replace(program, mask_stride=4),
        replace(program, image=replace(program.image, layout="NCHW")),
    ):
        with pytest.raises(BuildError, match="not the program"):
            runtime.compile(wrong, tmp_path, OPTIONS)
        with pytest.raises(BundleError, match="not an engine of its program"):
            runtime.load(wrong, files, OPTIONS)


def test_unknown_runtime() -> None:
    with pytest.raises(Unsupported, match="no runtime named 'onnxruntim'") as caught:
        backend("onnxruntim")
    assert caught.value.hint == "did you mean 'onnxruntime'?"
    assert set(ENGINES.rows) <= set(ENGINES.names())


def test_the_fake_keeps_the_contract(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    fake = FakeBackend("fake", tiny_mask)
    check_backend(fake, tiny_program(tmp_path / "tiny.onnx"), IMAGES, tiny_mask, tmp_path / "engines")
    assert len(fake.compiled) == 1
