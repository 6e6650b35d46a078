"""What hurts in a whole data set: each is found, told by a warning or a problem, and named with what mends
it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeseg.cli.main import run
from edgeseg.data.datasets import open_dataset
from edgeseg.errors import DataError
from edgeseg.images import jpeg_facts, read_image
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.recipe.schema import Data
from small_sets import SIZE_HW, blob, checked, only, picture, two_classes, write_set
from trees import write_label

THREE = {"names": ["ground", "thing", "rare"], "palette_rgb": [[0, 90, 0], [200, 0, 0], [0, 0, 200]]}


def test_a_sound_set_has_neither_problems_nor_warnings(tmp_path: Path) -> None:
    report = checked(write_set(tmp_path))
    assert report.problems == report.warnings == ()


def test_one_class_in_the_recipe(tmp_path: Path) -> None:
    data = two_classes(classes={"names": ["road"], "palette_rgb": [[0, 0, 0]]})
    assert (
        "[background, road]"
        in only(checked(write_set(tmp_path, mask=blob(0, 0)), data).problems, "classes").mend
    )


def test_classes_that_are_never_seen_or_in_one_split_alone(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert "rare" in only(checked(root, two_classes(classes=THREE)).warnings, "classes").message
    write_label(root / "labels/val/val0.png", blob(2))
    report = checked(root, two_classes(classes=THREE))
    assert "in validation alone, never in training: rare" in only(report.warnings, "classes", "val").message
    write_label(root / "labels/train/train0.png", blob(2))
    write_label(root / "labels/val/val0.png", blob())
    report = checked(root, two_classes(classes=THREE))
    assert "in training alone, never in validation: rare" in only(report.warnings, "classes", "val").message


def test_a_class_that_is_hardly_seen(tmp_path: Path) -> None:
    root = write_set(tmp_path, mask=blob(0, 0, (400, 400)))
    for path in (root / "images").rglob("*.png"):
        assert cv2.imwrite(str(path), picture(hash(path.name) % 1000, (400, 400)))
    mask = blob(0, 0, (400, 400))
    mask[0, :3] = 1
    for split in ("train", "val"):
        write_label(root / f"labels/{split}/{split}0.png", mask)
    warned = only(checked(root).warnings, "classes")
    assert "thing (0.0006 %)" in warned.message and "class_weights" in warned.mend


def test_labels_that_are_ignored_as_a_whole(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    write_label(root / "labels/train/train1.png", blob(255, 255))
    warned = only(checked(root).warnings, "ignored")
    assert "1 labels are ignored as a whole: images/train/train1" in warned.message
    assert 'data.train.exclude: ["train1"]' in warned.mend


def test_copies_within_a_split_and_between_splits(tmp_path: Path) -> None:
    root = write_set(tmp_path, image_suffix=".jpg")
    shutil.copy(root / "images/train/train0.jpg", root / "images/train/train1.jpg")
    for number in range(2):
        shutil.copy(root / "images/train/train0.jpg", root / f"images/val/val{number}.jpg")
    report = checked(root)
    assert "is there 2 times" in only(report.warnings, "duplicate").message
    copied = [problem for problem in report.problems if problem.kind == "duplicate"]
    assert [problem.sample for problem in copied] == ["images/val/val0", "images/val/val1"]
    assert {problem.mend for problem in copied} == {'data.val.exclude: ["val0", "val1"]   in the recipe'}


def test_frames_of_one_clip_on_both_sides(tmp_path: Path) -> None:
    root = write_set(tmp_path, count=0)
    for number in range(12):
        split = "val" if number % 3 == 1 else "train"
        path = root / f"images/{split}/drive7_{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = picture(7).astype(np.int16)
        frame += np.random.default_rng(number).integers(-3, 4, frame.shape, np.int16)
        assert cv2.imwrite(str(path), frame.clip(0, 255).astype(np.uint8))
        write_label(root / f"labels/{split}/drive7_{number:04}.png", blob())
    warned = only(checked(root).warnings, "duplicate", "val")
    assert "4 of 4 images look like training images" in warned.message and '"drive7_*"' in warned.mend


def test_other_pictures_of_one_numbering_are_no_clip(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            for index, path in enumerate(sorted((root / f"{folder}/{split}").iterdir())):
                path.rename(path.with_name(f"img_{2 * index + (split == 'val'):03}.png"))
    assert checked(root).warnings == ()


def test_the_same_picture_in_another_file_format(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    cv2.imwrite(
        str(root / "images/val/val0.png"),
        cv2.imread(str(root / "images/train/train2.png")),
        [cv2.IMWRITE_PNG_COMPRESSION, 0],
    )
    assert (
        "1 of 3 images look like training images" in only(checked(root).warnings, "duplicate", "val").message
    )


def tagged(path: Path, orientation: int, size_hw: tuple[int, int] = SIZE_HW) -> Path:
    """A JPEG file with an EXIF orientation, as cameras write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(orientation, size_hw)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_facts_are_the_cameras(tmp_path: Path, orientation: int) -> None:
    path = tagged(tmp_path / "x.jpg", orientation)
    assert jpeg_facts(path.read_bytes()) == (orientation, 3)
    with Image.open(path) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else None
    if upright is not None:
        assert read_image(path).shape[:2] == upright.size[::-1]
    for end in range(0, 200, 7):
        assert jpeg_facts(path.read_bytes()[:end])[0] in (1, orientation)


def test_orientation_is_told_and_a_label_of_the_stored_picture_is_explained(tmp_path: Path) -> None:
    root = write_set(tmp_path, image_suffix=".jpg")
    tagged(root / "images/train/train0.jpg", 6)
    tagged(root / "images/train/train1.jpg", 3)
    report = checked(root)
    problem = only(report.problems, "size")
    assert "turned by its EXIF orientation" in problem.message and "exiftool" in problem.mend
    assert "2 images carry an EXIF orientation" in only(report.warnings, "orientation").message


def test_a_label_of_another_size_names_the_command(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    write_label(root / "labels/train/train0.png", blob(size_hw=(24, 32)))
    problem = only(checked(root).problems, "size")
    assert "the label is 32x24" in problem.message and problem.mend.endswith("64 48")


def test_many_labels_of_another_size_do_not_fill_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "data", count=9, mask=blob(size_hw=(64, 48)))
    text = tmp_path / "mine.yaml"
    whole = load_recipe(find_recipe("edaformer_nano_synthetic"))
    text.write_text(dump_recipe(whole.model_copy(update={"data": two_classes()})))
    assert run(["data", "check", str(text), "--data-root", str(root), "--split", "train"]) == 3
    shown = capsys.readouterr().out
    assert shown.count("its sides are swapped") == 5 and "train size: and 4 more" in shown


def test_channels_that_differ(tmp_path: Path) -> None:
    root = write_set(tmp_path, image_suffix=".jpg")
    Image.fromarray(picture(5)).convert("L").save(root / "images/train/train0.jpg")
    Image.fromarray(picture(6)).convert("CMYK").save(root / "images/val/val0.jpg")
    report = checked(root)
    assert "1 images are grey" in only(report.warnings, "image").message
    assert "1 images are CMYK" in only(report.warnings, "image", "val").message


def test_grey_throughout_is_no_warning(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for path in (root / "images").rglob("*.png"):
        Image.fromarray(read_image(path)).convert("L").save(path)
    assert not [warned for warned in checked(root).warnings if warned.kind == "image"]


def test_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.data.findings.HUGE_PIXELS", 48 * 64 - 1)
    assert "3 images have more than" in only(checked(write_set(tmp_path)).warnings, "size").message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "Git LFS pointer"),
        (b"<html><body>403</body></html>", "a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"not a picture at all", '"not a picture at all"'),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "damaged or cut short"),
    ],
)
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_files_that_are_no_pictures_are_named(tmp_path: Path, content: bytes, told: str, folder: str) -> None:
    root = write_set(tmp_path)
    (root / f"{folder}/train/train0.png").write_bytes(content)
    (problem,) = checked(root).problems
    assert problem.kind == folder[:-1] and problem.mend
    assert told in problem.message or (folder == "labels" and "damaged" in told and "PNG" in problem.message)
    if folder == "labels":
        with pytest.raises(DataError, match=r"train0\.png"):
            open_dataset(two_classes(), "train", root)


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path, image_suffix=".jpg")
    path = root / "images/train/train0.jpg"
    path.write_bytes(path.read_bytes()[:600])
    assert str(path) in only(checked(root).problems, "image").message


def test_data_of_other_formats_are_judged_too(tmp_path: Path) -> None:
    data = Data.model_validate({"format": "camvid", "classes": None, "train": None, "val": None})
    root = write_set(tmp_path, mask=blob(255))
    with pytest.raises(DataError, match="one class alone, Sky"):
        open_dataset(data, "train", root)
