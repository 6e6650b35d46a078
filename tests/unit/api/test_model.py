"""A bundle as an object: called, streamed, run; without torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeseg
from edgeseg.api import Model
from edgeseg.errors import BundleError, DataError, RecipeError, StreamError
from edgeseg.images import resize_mask
from edgeseg.results import Result
from locations import REPOSITORY, SUPPORT
from streams import random_images
from tiny import tiny_bundle, tiny_mask

CLIP = "synthetic://64x48?frames=6"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.edgeseg").path


@pytest.fixture
def model(folder: Path) -> Model:
    return edgeseg.open(folder, threads=1)


def test_the_first_call_builds_an_engine_and_later_ones_take_it(folder: Path) -> None:
    assert edgeseg.open(folder).engines == ()
    (image_rgb,) = random_images(1, (40, 60))
    with edgeseg.open(folder, threads=1) as model:
        result = model(image_rgb)
        assert isinstance(result, Result) and result.mask.shape == (40, 60)
        verdicts = [row.verdict for row in model.engines]
        assert verdicts.count("default") == 1 and "onnxruntime" in repr(model.engines)
        session = model.session
        assert model(image_rgb).index == 1 and model.session is session
    again = edgeseg.open(folder)
    assert np.array_equal(again(image_rgb).mask, result.mask)
    assert [row.verdict for row in again.engines] == verdicts


def test_what_a_result_says(model: Model, tmp_path: Path) -> None:
    size_hw = model.session.program.image.size_hw
    (image_rgb,) = random_images(1, size_hw)
    result = model(image_rgb)
    assert np.array_equal(result.mask, resize_mask(tiny_mask(image_rgb), size_hw))
    for index, name in enumerate(model.classes):
        assert result.share[name] == pytest.approx((result.mask == index).mean())
    assert sum(result.share.values()) == pytest.approx(1)
    assert 0 < result.infer_ms <= result.latency_ms
    drawn = result.overlay(1.0)
    assert np.array_equal(drawn.image_rgb, result.labels.palette()[result.mask])
    place = drawn.save(tmp_path / "deep" / "overlay.png")
    assert np.array_equal(cv2.imread(str(place))[:, :, ::-1], drawn.image_rgb)
    assert result._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n" and model.classes[0] in repr(result)
    with pytest.raises(DataError, match=r"\.png or \.jpg"):
        drawn.save(tmp_path / "overlay.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        drawn.save(tmp_path / "file" / "overlay.png")


def test_pictures_come_as_paths_arrays_and_lists(model: Model, tmp_path: Path) -> None:
    images = random_images(2, (33, 47))
    path = tmp_path / "street ü.png"
    path.write_bytes(cv2.imencode(".png", images[0][:, :, ::-1])[1].tobytes())
    first, second, named = model([*images, str(path)])
    assert np.array_equal(first.mask, named.mask) and second.mask.shape == (33, 47)
    assert (named.source, named.frame.name, first.source) == (path.name, path.name, "array")
    assert [one.index for one in (first, second, named)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((8, 8), np.uint8), "grey"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros((1, 8, 8, 3), np.uint8), "batch"),
        (np.zeros((8, 8, 3), np.float32), "0..255"),
        (np.zeros((0, 8, 3), np.uint8), "RGB"),
    ],
)
def test_arrays_that_are_no_picture(model: Model, image: np.ndarray, told: str) -> None:
    with pytest.raises(DataError, match="is no picture") as caught:
        model(image)
    assert told in caught.value.hint


def test_files_that_are_no_picture(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="not a readable image"):
        model(tmp_path / "text.png")
    with pytest.raises(DataError, match="an address") as caught:
        model("rtsp://user:secret@camera/1")
    assert "secret" not in str(caught.value) and "stream" in caught.value.hint


def test_a_stream_gives_every_frame_of_a_file_in_order(model: Model) -> None:
    results = list(model.stream(CLIP))
    assert [one.index for one in results] == list(range(6))
    assert all(np.array_equal(one.mask, model(one.frame.image_rgb).mask) for one in results)
    assert [one.time_s for one in results] == sorted(one.time_s or 0.0 for one in results)


def test_leaving_a_stream_ends_it(model: Model) -> None:
    before = threading.active_count()
    for result in model.stream("gate=synthetic://64x48?frames=100000"):
        assert result.source == "gate"
        break
    results = model.stream(f"{CLIP}0000")
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_goes_wrong_with_a_stream_is_raised_where_its_results_are_taken(model: Model) -> None:
    with pytest.raises(StreamError, match="nowhere"):
        list(model.stream("nowhere.mp4"))
    with pytest.raises(RecipeError, match="deadlin_ms: unknown key"):
        list(model.stream(CLIP, deadlin_ms=40))


def test_a_run_writes_into_sinks_and_calls_functions(model: Model, tmp_path: Path) -> None:
    seen: list[Result] = []
    sinks = [tmp_path / "r.ndjson", seen.append]
    report = model.run([f"gate={CLIP}"], sinks, limit=4, report=str(tmp_path / "report.json"))
    assert (report.run.frames, [one.index for one in seen]) == (4, [0, 1, 2, 3])
    assert len((tmp_path / "r.ndjson").read_text().splitlines()) == 4
    assert report.to_json()["frames"] == 4 and (tmp_path / "report.json").stat().st_size
    assert {sink["sink"] for sink in report.to_json()["sinks"]} == {str(tmp_path / "r.ndjson"), "list.append"}


def test_a_function_that_fails_is_its_own_affair(model: Model, tmp_path: Path) -> None:
    def broken(result: Result) -> None:
        raise KeyError("user:secret")

    report = model.run(CLIP, [broken, tmp_path / "r.ndjson"])
    (failure,) = report.run.failures
    assert "broken" in failure["what"] and "KeyError" in failure["error"]
    assert len((tmp_path / "r.ndjson").read_text().splitlines()) == 6
    with pytest.raises(StreamError, match="broken: KeyError"):
        model.run(CLIP, broken)


def test_no_such_bundle_level_or_runtime(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        edgeseg.open(tmp_path / "nothing.edgeseg")
    with pytest.raises(BundleError, match="no level 7"):
        edgeseg.open(folder, level=7)
    with pytest.raises(edgeseg.EdgesegError, match="nonesuch"):
        edgeseg.open(folder, runtime="nonesuch")(np.zeros((8, 8, 3), np.uint8))


def test_nothing_of_it_needs_torch(folder: Path) -> None:
    program = """
        import sys
        for name in ("torch", "onnx", "modelopt", "PIL"):
            sys.modules[name] = None
        import numpy as np
        import edgeseg
        model = edgeseg.open(sys.argv[1], threads=1)
        assert model(np.zeros((48, 64, 3), np.uint8)).overlay()._repr_png_()
        assert len(list(model.stream("synthetic://64x48?frames=3", deadline_ms=None))) == 3
        assert model.run("synthetic://64x48?frames=3", [lambda result: None]).run.frames == 3
        try:
            edgeseg.train("edaformer_nano_synthetic", data=".")
        except edgeseg.EdgesegError as error:
            assert "edgeseg[train]" in error.hint, error.hint
        else:
            raise AssertionError("it trained without torch")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(folder)],
        env={"PYTHONPATH": f"{REPOSITORY}:{SUPPORT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
