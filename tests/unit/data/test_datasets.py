"""Reading data sets: what the formats' conformance tests do not cover, and every way in which data can be
wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import trees
from edgeseg.data.datasets import FolderDataset, classes_of, open_dataset, read_mask
from edgeseg.data.formats import format_of
from edgeseg.data.label_values import NAMED_AT_MOST
from edgeseg.errors import DataError, RecipeError
from edgeseg.recipe.labels import label_space
from edgeseg.recipe.schema import Data
from edgeseg.specs import LabelSpace
from trees import SIZE_HW, section, stripes, write_config, write_image, write_label

TWO = {"names": ["ground", "thing"], "palette_rgb": [[0, 90, 0], [200, 0, 0]]}
A = {"images": "i", "labels": "l"}


def two(**given: Any) -> Data:
    """A `folders` section of two classes in i/ and l/."""
    return section("folders", **{"classes": TWO, "train": A, "val": A, **given})


def pair(root: Path, name: str = "0", values: Any = None) -> tuple[Path, Path]:
    label = stripes([0, 1]) if values is None else values
    return write_image(root / f"i/{name}.jpg"), write_label(root / f"l/{name}.png", label)


def fails(data: Data, root: Path, index: int | None = None) -> str:
    """The message of the DataError that opening (or loading sample `index`) raises; it must have a hint."""

    def attempt() -> None:
        dataset = open_dataset(data, "train", root)
        if index is not None:
            dataset.load(index)

    with pytest.raises(DataError) as caught:
        attempt()
    assert caught.value.hint
    assert index is None or "/i/" in str(caught.value) or "/l/" in str(caught.value)
    return str(caught.value)


# What label values mean


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("camvid", 11, {0: "Sky", 10: "Bicyclist"}),
        ("idd_lite", 7, {0: "drivable", 6: "sky"}),
        ("cityscapes", 19, {0: "road", 13: "car", 18: "bicycle"}),
        ("ade20k", 150, {0: "wall", 12: "person", 149: "flag"}),
        ("coco_stuff", 171, {0: "person", 79: "toothbrush", 80: "banner", 170: "wood"}),
        ("pascal_context", 59, {0: "aeroplane", 14: "person", 58: "wood"}),
    ],
)
def test_class_lists_are_complete(name: str, count: int, some: dict[int, str]) -> None:
    labels = label_space(name)
    assert labels.num_classes == count
    assert {index: labels.names[index] for index in some} == some
    assert labels.ignore_index == 255


def test_indexed_png_is_read_by_index_not_by_colour(tmp_path: Path) -> None:
    values = stripes([0, 1, 10, 11])
    path = write_label(tmp_path / "a.png", values, palette=True)
    with Image.open(path) as file:
        assert file.mode == "P" and np.asarray(file.convert("L")).max() > 11
    form = format_of(section("camvid"), tmp_path)
    np.testing.assert_array_equal(read_mask(path, form), stripes([0, 1, 10, 255]))


def test_bilevel_and_16_bit_labels_are_read(tmp_path: Path) -> None:
    form = format_of(two(index_map={40000: 1}), tmp_path)
    Image.fromarray(stripes([0, 1]).astype(bool)).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bilevel.png", form), stripes([0, 1]))
    write_label(tmp_path / "deep.png", stripes([0, 40000, 255], dtype=np.uint16))
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png", form), stripes([0, 1, 255]))


def test_colours_become_classes_and_black_is_ignored(tmp_path: Path) -> None:
    data = two(encoding="palette")
    colours = np.array([[0, 90, 0], [200, 0, 0], [0, 0, 0]], np.uint8)
    path = write_label(tmp_path / "a.png", colours[stripes([0, 1, 2])])
    np.testing.assert_array_equal(read_mask(path, format_of(data, tmp_path)), stripes([0, 1, 255]))


def test_black_is_a_class_where_the_recipe_says_so(tmp_path: Path) -> None:
    data = two(
        encoding="palette", classes={"names": ["void", "thing"], "palette_rgb": [[0, 0, 0], [200, 0, 0]]}
    )
    path = write_label(tmp_path / "a.png", np.zeros((*SIZE_HW, 3), np.uint8))
    assert (read_mask(path, format_of(data, tmp_path)) == 0).all()


@given(st.data())
def test_any_palette_is_inverted_exactly(draw: st.DataObject) -> None:
    byte = st.integers(0, 255)
    palette = draw.draw(st.lists(st.tuples(byte, byte, byte), min_size=1, max_size=255, unique=True))
    form = format_of(
        two(
            encoding="palette",
            classes={"names": [str(i) for i in range(len(palette))], "palette_rgb": palette},
        ),
        Path(),
    )
    mask = np.resize(np.arange(len(palette), dtype=np.uint8), (4, 80))
    np.testing.assert_array_equal(classes_of(form.labels.palette()[mask], form, Path("x.png")), mask)


@given(
    st.dictionaries(st.integers(0, 65535), st.sampled_from([0, 1, 255]), max_size=20), st.integers(0, 2**31)
)
def test_any_index_map_is_followed(index_map: dict[int, int], seed: int) -> None:
    form = format_of(two(index_map=index_map), Path())
    expected = {0: 0, 1: 1, 255: 255, **index_map}
    raw = np.random.default_rng(seed).choice(np.array(list(expected), np.uint16), (5, 7))
    mask = classes_of(raw, form, Path("x.png"))
    assert mask.tolist() == [[expected[value] for value in row] for row in raw.tolist()]


def test_cityscapes_train_ids_are_taken_where_they_were_made(tmp_path: Path) -> None:
    tree = trees.cityscapes(tmp_path)
    for path in list((tmp_path / "gtFine").rglob("*_labelIds.png")):
        write_label(path.with_name(path.name.replace("labelIds", "labelTrainIds")), stripes([3, 4, 255]))
    _, mask = open_dataset(tree.data, "train", tmp_path).load(0)
    np.testing.assert_array_equal(mask, stripes([3, 4, 255]))


def test_mapillary_follows_the_version_that_the_recipe_names(tmp_path: Path) -> None:
    trees.mapillary(tmp_path)
    write_label(tmp_path / "training/v2.0/labels/a.png", stripes([0, 1]))
    write_label(tmp_path / "training/v2.0/labels/b.png", stripes([0, 1]))
    data = section("mapillary", train={"images": "training/images", "labels": "training/v2.0/labels"})
    assert open_dataset(data, "train", tmp_path).labels.names == ("Bird", "Road")


def test_mapillary_names_that_repeat_are_told_apart(tmp_path: Path) -> None:
    trees.mapillary(tmp_path)
    write_config(
        tmp_path / "config_v1.2.json", [("Sign", True), ("Sign", True), ("Sky", True), ("Road", True)]
    )
    names = open_dataset(section("mapillary"), "train", tmp_path).labels.names
    assert names == ("group--sign-0", "group--sign-1", "group--sky-2", "group--road-3")


def test_a_format_may_be_given_other_names(tmp_path: Path) -> None:
    trees.camvid(tmp_path)
    classes = {"names": [f"c{n}" for n in range(11)], "palette_rgb": [[n, n, n] for n in range(11)]}
    assert open_dataset(section("camvid", classes=classes), "train", tmp_path).labels.names[10] == "c10"


# Which files belong to a split


def test_both_layouts_of_camvid_are_found(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/0.jpg")
    write_label(tmp_path / "labels/train/0.png", stripes([0, 1, 11]))
    assert open_dataset(section("camvid"), "train", tmp_path).name(0) == "images/train/0"


def test_a_split_of_the_recipe_keeps_the_formats_classes(tmp_path: Path) -> None:
    pair(tmp_path, "0006R0_1", stripes([0, 1, 11]))
    pair(tmp_path, "0016E5_1", stripes([0, 1, 11]))
    data = section("camvid", train={**A, "exclude": ["0006R0*"]}, val={**A, "include": ["0006R0*"]})
    train, val = (open_dataset(data, split, tmp_path) for split in ("train", "val"))
    assert [train.name(0), val.name(0)] == ["i/0016E5_1", "i/0006R0_1"] and len(train) == len(val) == 1
    np.testing.assert_array_equal(val.load(0)[1], stripes([0, 1, 255]))


def test_globs_see_the_folders_below_the_split(tmp_path: Path) -> None:
    for name in ("day/0", "day/1", "night/0"):
        pair(tmp_path, name)
    data = two(train={**A, "include": ["day/*"], "exclude": ["*/1"]})
    dataset = open_dataset(data, "train", tmp_path)
    assert [dataset.name(index) for index in range(len(dataset))] == ["i/day/0"]


def test_excluded_samples_need_no_partner(tmp_path: Path) -> None:
    pair(tmp_path)
    write_image(tmp_path / "i/broken.jpg")
    assert len(open_dataset(two(train={**A, "exclude": ["broken"]}), "train", tmp_path)) == 1


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "i/Thumbs.db").write_bytes(b"x")
    (tmp_path / "i/.0.jpg").write_bytes(b"x")
    assert len(open_dataset(two(), "train", tmp_path)) == 1


def test_suffixes_may_be_upper_case_and_folders_linked(tmp_path: Path) -> None:
    image, _ = pair(tmp_path / "disk")
    os.rename(image, image.with_suffix(".JPG"))
    (tmp_path / "i").symlink_to(tmp_path / "disk/i")
    (tmp_path / "l").symlink_to(tmp_path / "disk/l")
    assert len(open_dataset(two(), "train", tmp_path)) == 1


# What can be wrong


def test_missing_root_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder") as caught:
        open_dataset(section("ade20k"), "train", tmp_path / "nowhere")
    assert "--data-root" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["camvid", "idd_lite", "cityscapes", "ade20k", "coco_stuff", "pascal_context"]
)
def test_root_without_the_formats_folders(name: str, tmp_path: Path) -> None:
    message = fails(section(name), tmp_path)
    assert name in message and "no folder" in message and "train" in message


def test_missing_label_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/0.jpg")
    assert str(tmp_path / "labels/train") in fails(section("camvid"), tmp_path)


def test_images_without_labels_are_named_and_counted(tmp_path: Path) -> None:
    pair(tmp_path)
    for number in range(13):
        write_image(tmp_path / f"i/more_{number:02}.jpg")
    message = fails(two(), tmp_path)
    assert "13 image(s) without label file" in message and "more_00" in message and "and 3 more" in message
    assert message.count("more_") == NAMED_AT_MOST


def test_labels_without_images_are_named_and_counted(tmp_path: Path) -> None:
    pair(tmp_path)
    write_label(tmp_path / "l/lonely.png", stripes([0]))
    assert "1 label file(s) without image" in (message := fails(two(), tmp_path)) and "lonely" in message


def test_listed_sample_without_image(tmp_path: Path) -> None:
    tree = trees.pascal_context(tmp_path)
    (tmp_path / "ImageSets/SegmentationContext/train.txt").write_text("2008_0\n2008_9\n")
    assert "2008_9" in fails(tree.data, tmp_path)


def test_missing_list(tmp_path: Path) -> None:
    tree = trees.pascal_context(tmp_path)
    (tmp_path / "ImageSets/SegmentationContext/train.txt").unlink()
    assert "train.txt" in fails(tree.data, tmp_path)


def test_two_files_for_one_sample(tmp_path: Path) -> None:
    pair(tmp_path)
    write_image(tmp_path / "i/0.png")
    assert "0.png" in (message := fails(two(), tmp_path)) and "0.jpg" in message


@pytest.mark.parametrize("split", [A, {**A, "include": ["no*"]}, {**A, "exclude": ["*"]}])
def test_no_samples(split: dict[str, Any], tmp_path: Path) -> None:
    if split is A:
        (tmp_path / "i").mkdir()
        (tmp_path / "l").mkdir()
    else:
        pair(tmp_path)
    assert "no samples" in fails(two(train=split), tmp_path)


def test_sizes_that_differ(tmp_path: Path) -> None:
    pair(tmp_path, values=stripes([0, 1], (6, 8)))
    message = fails(two(), tmp_path, 0)
    assert "8x6" in message and "16x12" in message


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "gone"])
def test_unreadable_files_are_named(which: int, damage: str, tmp_path: Path) -> None:
    path = pair(tmp_path, values=np.random.default_rng(0).integers(0, 2, SIZE_HW).astype(np.uint8))[which]
    dataset = open_dataset(two(), "train", tmp_path)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "truncated": content[: len(content) // 2], "text": b"no picture", "gone": b""}[damage]
    )
    if damage == "gone":
        path.unlink()
    with pytest.raises(DataError, match=str(path)):
        dataset.load(0)


def test_label_values_without_a_class_are_named_with_their_counts(tmp_path: Path) -> None:
    values = stripes([0, 1])
    values[0, :3] = 7
    values[1, 0] = 254
    pair(tmp_path, values=values)
    message = fails(two(), tmp_path, 0)
    assert "7 (3 px)" in message and "254 (1 px)" in message and "2 classes" in message


def test_wide_label_values_without_a_class(tmp_path: Path) -> None:
    pair(tmp_path, values=stripes([0, 26001], dtype=np.uint16))
    assert "26001 (96 px)" in fails(two(), tmp_path, 0)


def test_ids_that_coco_never_used_are_errors(tmp_path: Path) -> None:
    form = format_of(section("coco_stuff"), tmp_path)
    for raw in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182):
        with pytest.raises(DataError, match=f"{raw} "):
            classes_of(np.full((2, 2), raw, np.uint8), form, tmp_path)


def test_colours_outside_the_palette_are_named(tmp_path: Path) -> None:
    colours = np.zeros((*SIZE_HW, 3), np.uint8)
    colours[0, 0] = (1, 2, 3)
    pair(tmp_path, values=colours)
    assert "(1, 2, 3) (1 px)" in fails(two(encoding="palette"), tmp_path, 0)


def test_coloured_labels_where_indices_are_expected(tmp_path: Path) -> None:
    colours = np.array(TWO["palette_rgb"], np.uint8)[stripes([0, 1])]
    pair(tmp_path, values=colours)
    with pytest.raises(DataError, match="colours") as caught:
        open_dataset(two(), "train", tmp_path)
    assert "data.encoding: palette" in caught.value.hint
    assert len(open_dataset(two(encoding="palette"), "train", tmp_path)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"labels": [{"readable": "x"}]}', '{"labels": []}'])
def test_malformed_mapillary_class_list(text: str, tmp_path: Path) -> None:
    trees.mapillary(tmp_path)
    (tmp_path / "config_v1.2.json").write_text(text)
    assert "config_v1.2.json" in fails(section("mapillary"), tmp_path)


def test_missing_mapillary_class_list(tmp_path: Path) -> None:
    trees.mapillary(tmp_path)
    for path in tmp_path.glob("config*"):
        path.unlink()
    assert "config.json" in fails(section("mapillary"), tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        section("ade20k", classes=TWO),
        section(
            "camvid",
            classes={"names": list("abcdefghijk"), "palette_rgb": [[0, 0, 0]] * 11, "ignore_index": 11},
        ),
        two(index_map={3: 2}),
        two(index_map={-1: 0}),
        two(index_map={70000: 0}),
        two(encoding="palette", index_map={3: 1}),
        two(encoding="palette", classes={"names": ["a", "b"], "palette_rgb": [[1, 1, 1], [1, 1, 1]]}),
    ],
)
def test_sections_that_contradict_themselves(data: Data, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^data\.") as caught:
        open_dataset(data, "train", tmp_path)
    assert caught.value.hint


def test_shipped_lists_are_usable_as_folders_classes() -> None:
    labels = label_space("cityscapes")
    again = two(classes={"names": labels.names, "palette_rgb": labels.palette_rgb}).classes
    assert again is not None and again.label_space() == LabelSpace(labels.names, labels.palette_rgb)


def test_samples_know_their_files(tmp_path: Path) -> None:
    image, label = pair(tmp_path)
    dataset = open_dataset(two(), "train", tmp_path)
    assert isinstance(dataset, FolderDataset)
    assert (dataset.samples[0].image, dataset.samples[0].label) == (image, label)
