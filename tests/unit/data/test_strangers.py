"""Labels that another tool left: they are named, and the command that is told makes masks of them."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.cli.main import run
from edgeseg.data.datasets import open_dataset
from edgeseg.errors import DataError
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.recipe.schema import Data
from small_sets import SIZE_HW, checked, only, two_classes, write_set

H, W = SIZE_HW
BOX = [(16.0, 12.0), (48.0, 12.0), (48.0, 36.0), (16.0, 36.0)]
"""The outline of what the tools annotate."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images alone; the label folders are empty."""
    root = write_set(tmp_path / "my data")
    for path in (root / "labels").rglob("*.png"):
        path.unlink()
    return root


def recipe(tmp_path: Path, data: Data) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(
        dump_recipe(load_recipe(find_recipe("edaformer_nano_synthetic")).model_copy(update={"data": data}))
    )
    return str(path)


def labelme(root: Path) -> None:
    for path in (root / "images").rglob("*.png"):
        shapes = [
            {"label": "thing", "points": BOX, "shape_type": "polygon"},
            {"label": "other", "points": BOX[:3], "shape_type": "polygon"},
        ]
        held = {"version": "5", "shapes": shapes, "imagePath": path.name, "imageWidth": W, "imageHeight": H}
        (root / "labels" / path.parent.name / f"{path.stem}.json").write_text(json.dumps(held))


def labelme_beside_the_images(root: Path) -> None:
    labelme(root)
    for path in list((root / "labels").rglob("*.json")):
        shutil.move(path, root / "images" / path.parent.name)


def yolo(root: Path) -> None:
    for path in (root / "images").rglob("*.png"):
        row = " ".join(f"{x / W:.5f} {y / H:.5f}" for x, y in BOX)
        (root / "labels" / path.parent.name / f"{path.stem}.txt").write_text(f"1 {row}\n")


def coco(root: Path) -> None:
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        images = [{"id": n, "file_name": f"{split}{n}.png", "width": W, "height": H} for n in range(3)]
        flat = [value for point in BOX for value in point]
        annotations = [
            {"image_id": n, "category_id": 7, "segmentation": [flat], "area": 1.0} for n in range(3)
        ]
        held = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "thing"}]}
        (root / f"labels/{split}/instances.json").write_text(json.dumps(held))


@pytest.mark.parametrize("annotate", [labelme, labelme_beside_the_images, yolo, coco])
def test_outlines_are_named_and_the_command_draws_them(
    root: Path, tmp_path: Path, annotate: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(root)
    text = recipe(tmp_path, two_classes())
    assert run(["data", "check", text, "--data-root", str(root)]) == 3
    shown = capsys.readouterr().out
    commands = [
        line.rpartition("edgeseg data masks ")[2]
        for line in shown.splitlines()
        if "edgeseg data masks " in line
    ]
    assert annotate.__name__.partition("_")[0] in shown.lower() and len(commands) == 2
    folders = {}
    for command in commands:
        words = shlex.split(command)
        assert run(["data", "masks", *words, "--background", "ground"]) == 0
        folders[words[words.index("--split") + 1]] = Path(words[words.index("--out") + 1])
    written = capsys.readouterr().out
    assert ("passed over" in written and "other (3)" in written) == annotate.__name__.startswith("labelme")
    data = two_classes(
        **{
            s: {"images": f"images/{s}", "labels": str(folder.relative_to(root))}
            for s, folder in folders.items()
        }
    )
    assert checked(root, data).problems == ()
    mask = open_dataset(data, "train", root).load(0)[1]
    expected = np.zeros(SIZE_HW, np.uint8)
    expected[12:37, 16:49] = 1  # Pillow draws the outline too
    assert (mask != expected).mean() < 0.05 and mask[H // 2, W // 2] == 1


@pytest.mark.parametrize(
    ("files", "told", "mend"),
    [
        ({"labels/train/train{n}.txt": "1 0.5 0.5 0.2 0.2\n"}, "boxes", "annotate outlines"),
        ({"labels/train/train{n}.xml": "<annotation></annotation>"}, "XML", "Segmentation mask"),
        ({"labels/train/train{n}.npy": "x"}, "NumPy", "np.load"),
        ({"labels/train/train{n}.mat": "x"}, "MATLAB", "PNG"),
        (
            {"labels/train/train{n}.png.json": '{"objects": [], "size": {}}'},
            "Supervisely",
            "export them as masks",
        ),
        ({"labels/train/train{n}.json": '{"imgHeight": 1, "objects": []}'}, "Cityscapes", "export"),
        ({"labels/train/via.json": '{"_via_img_metadata": {}}'}, "VIA", "export"),
        ({"labels/train/masks.zip": "x"}, "not unpacked", "unzip "),
        ({"labels/train/masks.tar.gz": "x"}, "not unpacked", "tar -xf "),
    ],
)
def test_other_files_are_named(root: Path, files: dict[str, str], told: str, mend: str) -> None:
    for name, content in files.items():
        for number in range(3):
            (root / name.format(n=number)).write_text(content)
    problem = next(problem for problem in checked(root).problems if problem.split == "train")
    assert problem.kind == "pair" and told in problem.mend and mend in problem.mend
    with pytest.raises(DataError) as caught:
        open_dataset(two_classes(), "train", root)
    assert mend in caught.value.hint


@pytest.mark.parametrize("template", ["{}_mask", "mask_{}", "{}_gtFine_labelIds", "seg-{}-v2"])
def test_labels_under_other_names_are_told_with_the_line(tmp_path: Path, template: str) -> None:
    root = write_set(tmp_path)
    for path in list((root / "labels").rglob("*.png")):
        path.rename(path.with_name(f"{template.format(path.stem)}.png"))
    problems = [problem for problem in checked(root).problems if problem.split == "train"]
    assert f'data.train.label_name: "{template}"' in problems[0].mend
    splits = ("train", "val")
    data = two_classes(
        **{s: {"images": f"images/{s}", "labels": f"labels/{s}", "label_name": template} for s in splits}
    )
    assert checked(root, data).problems == ()


def test_masks_beside_their_images(tmp_path: Path) -> None:
    root = write_set(tmp_path, image_suffix=".jpg")
    for path in list((root / "labels").rglob("*.png")):
        path.rename(root / "images" / path.parent.name / f"{path.stem}_mask.png")
    shutil.rmtree(root / "labels")
    problem = only(checked(root).problems, "folder")
    assert 'data.train.labels: images/train, and data.train.label_name: "{}_mask"' in problem.mend
    split = {
        s: {"images": f"images/{s}", "labels": f"images/{s}", "label_name": "{}_mask"}
        for s in ("train", "val")
    }
    assert checked(root, two_classes(**split)).problems == ()


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_files_in_another_sub_folder(tmp_path: Path, folder: str) -> None:
    root = write_set(tmp_path)
    for path in list((root / folder).rglob("*.png")):
        (path.parent / "deep").mkdir(exist_ok=True)
        path.rename(path.parent / "deep" / path.name)
    assert (
        f"data.train.{folder}: {folder}/train/deep   in the recipe" in next(iter(checked(root).problems)).mend
    )


def test_an_archive_where_the_folder_should_be(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    shutil.rmtree(root / "images")
    (root / "images.zip").write_bytes(b"PK")
    problem = only(checked(root).problems, "folder")
    assert "images.zip" in problem.mend and "unzip" in problem.mend


def test_some_images_without_labels_are_left_out_by_name(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "labels/train/train1.png").unlink()
    problem = only(checked(root).problems, "pair")
    assert "train1" in problem.message and "data.train.exclude" in problem.mend


class TestMasks:
    """The command's mistakes."""

    def failed(self, arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
        assert run(["data", "masks", *map(str, arguments)]) == DataError.exit_code
        return capsys.readouterr().err

    def test_what_cannot_be_drawn(
        self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text, out = recipe(tmp_path, two_classes()), tmp_path / "out"
        base = [text, "--data-root", root, "--out", out, "--from"]
        assert "no pictures" in self.failed([*base, root / "labels/train"], capsys)
        assert "no such class" in self.failed([*base, root / "labels/train", "--background", "sky"], capsys)
        assert "--values 1" in self.failed([*base, root / "images/train", "--values", "1"], capsys)
        yolo(root)
        (root / "labels/train/train0.txt").write_text("1 0.5 0.5 0.1 0.1\n")
        assert "boxes" in self.failed([*base, root / "labels/train"], capsys)
        (root / "labels/train/train0.txt").write_text("1 0.5 0.5 0.1\n")
        assert "no outline" in self.failed([*base, root / "labels/train"], capsys)
        (root / "x.json").write_text(
            '{"images": [{"id": 1, "file_name": "../../x.png", "width": 1, "height": 1}]}'
        )
        assert "not an annotation file of COCO" in self.failed([*base, root / "x.json"], capsys)
        held = {
            "images": [{"id": 1, "file_name": "../x.png", "width": 1, "height": 1}],
            "annotations": [],
            "categories": [],
        }
        (root / "x.json").write_text(json.dumps(held))
        assert "lies outside" in self.failed([*base, root / "x.json"], capsys)

    def test_pictures_are_not_overwritten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_set(tmp_path / "data")
        folder = root / "labels/train"
        text = recipe(tmp_path, two_classes())
        assert "overwritten" in self.failed(
            [text, "--data-root", root, "--from", folder, "--out", folder], capsys
        )
