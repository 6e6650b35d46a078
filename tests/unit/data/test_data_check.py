"""The data check: counts are right, and one pass finds every problem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import trees
from edgeseg.cli.main import run
from edgeseg.contracts import NoProgress
from edgeseg.data.check import CheckReport, check_dataset, sample_sheet
from edgeseg.errors import DataError
from edgeseg.images import read_image
from trees import SIZE_HW, section, stripes, write_image, write_label

CLASSES = {"names": ["ground", "thing", "rare"], "palette_rgb": [[0, 90, 0], [200, 0, 0], [0, 0, 200]]}
DATA = section(
    "folders",
    classes=CLASSES,
    train={"images": "train/i", "labels": "train/l"},
    val={"images": "val/i", "labels": "val/l"},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training samples and one for validation, all sound; class 2 never occurs, class 1 in one training
    image.
    """
    for seed, name in enumerate(("train/{}/0", "train/{}/1", "train/{}/2", "val/{}/0")):
        write_image(tmp_path / f"{name.format('i')}.jpg", seed=seed)
        write_label(
            tmp_path / f"{name.format('l')}.png", stripes([0, 1, 255, 0]) if seed == 0 else stripes([0])
        )
    return tmp_path


def kinds(report: CheckReport) -> list[tuple[str, str, str]]:
    return sorted((problem.kind, problem.split, problem.sample) for problem in report.problems)


def test_a_sound_set_is_counted(root: Path) -> None:
    report = check_dataset(DATA, root)
    assert report.problems == ()
    train, val = report.splits
    pixels = SIZE_HW[0] * SIZE_HW[1]
    assert (train.split, train.samples, train.read, train.pixels) == ("train", 3, 3, 3 * pixels)
    assert (val.samples, val.ignored_share, val.sizes) == (1, 0.0, {"16x12": 1})
    assert train.ignored_share == pytest.approx(1 / 12)
    assert [share.pixels for share in train.classes] == [2.5 * pixels, pixels / 4, 0]
    assert [share.pixel_share for share in train.classes] == pytest.approx([10 / 11, 1 / 11, 0])
    assert [(share.images, share.image_share) for share in train.classes] == [
        (3, 1.0),
        (1, pytest.approx(1 / 3)),
        (0, 0.0),
    ]


def test_every_problem_is_found_in_one_pass(root: Path) -> None:
    (root / "train/i/0.jpg").write_bytes(b"")  # both files of one sample are broken, and both are named
    (root / "train/l/0.png").write_bytes(b"\x89PNG")
    write_label(root / "train/l/1.png", stripes([0, 3]))
    write_label(root / "train/l/2.png", stripes([0], (5, 5)))
    write_image(root / "train/i/only_image.jpg")
    write_label(root / "val/l/only_label.png", stripes([0]))
    shutil.copy(root / "train/i/2.jpg", root / "val/i/copied.jpg")
    write_label(root / "val/l/copied.png", stripes([0]))
    report = check_dataset(DATA, root)
    assert kinds(report) == [
        ("duplicate", "val", "val/i/copied"),
        ("image", "train", "train/i/0"),
        ("label", "train", "train/i/0"),
        ("pair", "train", "only_image"),
        ("pair", "val", "only_label"),
        ("size", "train", "train/i/2"),
        ("values", "train", "train/i/1"),
    ]
    assert report.splits[0].samples == 3 and report.splits[0].read == 0
    for problem in report.problems:
        assert problem.sample in problem.message or str(root) in problem.message


def test_a_missing_split_does_not_hide_the_other(root: Path) -> None:
    shutil.rmtree(root / "train/l")
    report = check_dataset(DATA, root)
    assert kinds(report) == [("folder", "train", "")]
    assert [split.split for split in report.splits] == ["val"]


def test_an_empty_split_is_a_problem(root: Path) -> None:
    for path in (root / "val").rglob("0.*"):
        path.unlink()
    assert kinds(check_dataset(DATA, root)) == [("empty", "val", "")]


def test_missing_root_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check_dataset(DATA, tmp_path / "nowhere")
    assert "--data-root" in caught.value.hint


def test_one_split_alone_has_no_duplicates(root: Path) -> None:
    shutil.copy(root / "train/i/2.jpg", root / "val/i/0.jpg")
    assert check_dataset(DATA, root, ("val",)).problems == ()
    assert kinds(check_dataset(DATA, root)) == [("duplicate", "val", "val/i/0")]


@pytest.mark.parametrize("name", sorted(set(trees.TREES) - {"synthetic"}))
def test_sound_sets_of_every_format_have_no_problems(name: str, tmp_path: Path) -> None:
    tree = trees.TREES[name](tmp_path)
    report = check_dataset(tree.data, tree.root)
    assert report.problems == ()
    assert sum(share.pixels for share in report.splits[0].classes) > 0


def test_the_number_of_threads_changes_nothing(root: Path) -> None:
    write_label(root / "train/l/1.png", stripes([9]))
    assert check_dataset(DATA, root, threads=1) == check_dataset(DATA, root, threads=8)


def test_progress_counts_samples_and_problems(root: Path) -> None:
    write_label(root / "train/l/1.png", stripes([9]))

    class Recorder(NoProgress):
        def __init__(self) -> None:
            self.totals: dict[str, int | None] = {}
            self.figures: list[Any] = []

        def start(self, task: str, total: int | None) -> None:
            self.totals[task] = total

        def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
            self.figures.append((task, figures["problems"]))

    recorder = Recorder()
    check_dataset(DATA, root, progress=recorder)
    assert recorder.totals == {"check train": 3, "check val": 1}
    assert recorder.figures == [("check train", 0), ("check train", 1), ("check train", 1), ("check val", 0)]


def test_sheet_shows_images_beside_their_labels(root: Path) -> None:
    colours = np.zeros((*SIZE_HW, 3), np.uint8)
    for path in (root / "train/i").glob("*.jpg"):
        assert cv2.imwrite(str(path), colours)
    write_label(root / "train/l/0.png", stripes([1]))
    sheet = sample_sheet(DATA, root, ("train",), count=1, tile_px=160)
    assert sheet is not None
    plain, overlaid = sheet[:60, :160], sheet[:60, 164:324]
    assert plain.max() < 5
    assert (overlaid[..., 0] > 60).all() and overlaid[..., 1:].max() < 5


def test_sheet_passes_over_what_cannot_be_read(root: Path) -> None:
    (root / "train/i/0.jpg").write_bytes(b"")
    sheet = sample_sheet(DATA, root, ("train",), count=3, tile_px=100)
    assert sheet is not None and sheet.shape[1] == 4 * 104 - 4
    for path in (root / "train/i").glob("*"):
        path.write_bytes(b"")
    assert sample_sheet(DATA, root, ("train",)) is None


# The command


@pytest.fixture
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shipped recipe's copy that describes the little tree."""
    from edgeseg.recipe.load import catalogue, dump_recipe, load_recipe

    whole = load_recipe(catalogue()["edaformer_nano_synthetic"])
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_text(dump_recipe(whole.model_copy(update={"data": DATA})))
    return str(path)


def command(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run(["data", "check", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_command_on_a_sound_set(
    root: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    code, out, _ = command([recipe, "--data-root", str(root), "--sheet", str(sheet)], capsys)
    assert code == 0 and "no problems" in out and "never" in out
    assert read_image(sheet).shape[2] == 3
    assert list(tmp_path.glob(".sheet*")) == []


def test_command_lists_all_problems_and_exits_3(
    root: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train/i/0.jpg").write_bytes(b"")
    write_label(root / "train/l/1.png", stripes([7]))
    code, out, err = command([recipe, "--data-root", str(root), "--split", "train"], capsys)
    assert code == 3
    assert "train/i/0.jpg" in out and "train/l/1.png" in out and "7 (192 px)" in out
    assert "error: 2 problems" in err and "hint: " in err


def test_command_writes_one_json_document(
    root: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train/i/0.jpg").write_bytes(b"")
    code, out, _ = command([recipe, "--data-root", str(root), "--json"], capsys)
    document = json.loads(out)
    assert code == 3
    assert [problem["kind"] for problem in document["problems"]] == ["image"]
    assert document["splits"][0]["classes"][0]["name"] == "ground"
    assert document["sheet"] is None


def test_command_without_its_data(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command([recipe, "--data-root", str(tmp_path / "nowhere")], capsys)
    assert code == 3 and "no such folder" in err and "--data-root" in err


def test_sheet_that_cannot_be_written(
    root: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code, out, err = command(
        [recipe, "--data-root", str(root), "--sheet", str(tmp_path / "file/sheet.png")], capsys
    )
    assert code == 3 and out == "" and "sheet.png" in err


def test_synthetic_scenes_are_sound() -> None:
    report = check_dataset(section("synthetic"), Path("nowhere"), ("val",))
    assert report.problems == () and report.splits[0].ignored_share == 0
    assert all(share.pixels > 0 for share in report.splits[0].classes)
