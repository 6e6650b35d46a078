"""Label values and colours that have no class: what they look like is said, and the line that mends them
works.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeseg.cli.main import run
from edgeseg.data.calib import CalibImage, CalibSet, Chosen, ClassCount, write_calib
from edgeseg.data.datasets import open_dataset
from edgeseg.data.label_values import explain_values
from edgeseg.errors import DataError
from edgeseg.recipe.load import dump_recipe, dump_yaml, find_recipe, load_recipe
from edgeseg.recipe.schema import Data
from edgeseg.specs import LabelSpace
from small_sets import CLASSES, SIZE_HW, blob, checked, only, two_classes, write_set


def opened(root: Path, data: Data) -> Any:
    return [open_dataset(data, split, root) for split in ("train", "val")]


def mended(root: Path, hint: str, tmp_path: Path) -> Data:
    """The data section with the --set option that a hint names."""
    override = shlex.split(hint.rpartition("--set ")[2])[0]
    text = tmp_path / "mine.yaml"
    whole = load_recipe(find_recipe("edaformer_nano_synthetic"))
    text.write_text(dump_recipe(whole.model_copy(update={"data": two_classes()})))
    return load_recipe(text, (override,)).data


@pytest.mark.parametrize(
    "mask",
    [
        blob(255),
        blob(1, 255),
        blob(128),
        blob(2, 1),
        np.repeat(blob(255)[..., None], 3, axis=2),
        blob(40000, dtype=np.uint16),
        blob(257, dtype=np.uint16),
        blob(0, 255),
    ],
    ids=["0-255", "255-1", "0-128", "1-2", "grey as RGB", "16 bit", "scaled to 16 bit", "inverted"],
)
def test_two_values_for_two_classes_are_refused_and_one_line_maps_them(mask: Any, tmp_path: Path) -> None:
    root = write_set(tmp_path / "data", mask=mask)
    with pytest.raises(DataError, match=r"/labels/train") as caught:
        open_dataset(two_classes(), "train", root)
    data = mended(root, caught.value.hint, tmp_path)
    train, val = opened(root, data)
    assert set(np.unique(train.load(0)[1])) == set(np.unique(val.load(0)[1])) == {0, 1}
    report = checked(root)
    problem = next(problem for problem in report.problems if problem.split == "train")
    assert problem.mend == caught.value.hint and {problem.split for problem in report.problems} == {
        "train",
        "val",
    }
    assert checked(root, data).problems == ()


def test_zero_to_n_leave_the_choice(tmp_path: Path) -> None:
    mask = blob(2)
    mask[:4] = 1
    report = checked(write_set(tmp_path, mask=mask))
    mend = next(problem for problem in report.problems if problem.kind == "values").mend
    assert "{0: 255, 1: 0, 2: 1}" in mend and "data.classes" in mend


def test_what_mends_is_judged_by_all_files(tmp_path: Path) -> None:
    """One file alone shows 1 and 2, another 0: together they are no shift by one."""
    root = write_set(tmp_path)
    Image.fromarray(blob(2, 1)).save(root / "labels/train/train0.png")
    problem = only(checked(root).problems, "values")
    assert "{0: 255, 1: 0, 2: 1}" in problem.mend


def test_a_rare_second_class_is_found_before_anything_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, count=40, mask=blob(0, 0))
    with pytest.raises(DataError, match="one class alone, ground"):
        open_dataset(two_classes(), "train", root)
    Image.fromarray(blob()).save(root / "labels/train/train17.png")
    assert len(open_dataset(two_classes(), "train", root)) == 40
    assert len(open_dataset(two_classes(), "val", root)) == 40  # poor, but nothing in it is misread


def test_every_command_refuses_before_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from edgeseg.checkpoints.file import save_checkpoint
    from edgeseg.models import build_model

    root = write_set(tmp_path / "data", mask=blob(255))
    whole = load_recipe(find_recipe("edaformer_nano_synthetic_int8"))
    text, weights = tmp_path / "mine.yaml", tmp_path / "w.safetensors"
    chosen = Chosen(by="greedy", seed=0, candidates=2, split_images=2, brightness=(0.0, 255.0))
    counts = tuple(ClassCount(name=name, images=2, available=2, pixel_share=0.5) for name in CLASSES["names"])
    images = tuple(
        CalibImage(path=f"images/train/{n}.png", sha256="0" * 64, brightness=9.0) for n in range(2)
    )
    calibration = CalibSet(
        name="two", format="folders", split="train", chosen=chosen, classes=counts, images=images
    )
    write_calib(calibration, tmp_path / "two.yaml", "of the recipe's data, so that the recipe is right")
    named = dump_recipe(whole.model_copy(update={"data": two_classes()}))
    text.write_text(named.replace("images: synthetic_train_16", f"images: {tmp_path / 'two.yaml'}"))
    torch.manual_seed(0)
    model = build_model("edaformer_nano", 2, **whole.model.options)
    save_checkpoint(
        weights, model.state_dict(), {"kind": "weights", "arch": "edaformer_nano", "num_classes": 2}
    )
    for module in (
        "edgeseg.pipeline.quantize.calibrated",
        "edgeseg.training.loop._Loop.fit",
        "edgeseg.data.calib_choice.look",
    ):
        monkeypatch.setattr(module, lambda *given, **named: pytest.fail("it began its work"))
    for command in (
        ["train", text, "--device", "cpu", "-o", tmp_path / "run"],
        ["quantize", text, "--checkpoint", weights, "--ptq-only"],
        ["calib", "make", text, "--n", "2", "-o", tmp_path / "c.yaml"],
        ["isr", text, "--checkpoint", weights],
        ["export", text, "--checkpoint", weights, "--set", "quant=null", "-o", tmp_path / "x.edgeseg"],
    ):
        code = run([*map(str, command), "--data-root", str(root)])
        told = capsys.readouterr().err
        assert code == 3, told
        assert "one class alone, ground" in told and "--set 'data.index_map={255: 1}'" in told, command


def test_labels_without_any_class(tmp_path: Path) -> None:
    root = write_set(tmp_path, mask=blob(255, 255))
    with pytest.raises(DataError, match="of no class"):
        open_dataset(two_classes(), "val", root)


def test_much_ignored_is_told_once_and_goes_on(tmp_path: Path) -> None:
    mask = np.full(SIZE_HW, 255, np.uint8)
    mask[:4, :4], mask[8:12, :4] = 0, 1
    root = write_set(tmp_path, mask=mask)
    assert "are ignored" in open_dataset(two_classes(), "train", root).warnings[0]  # type: ignore[attr-defined]
    assert "are ignored" in only(checked(root).warnings, "ignored").message


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("quality", [60, 90])
def test_jpeg_masks_are_named_and_the_command_rounds_them(
    tmp_path: Path, colour: bool, quality: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = two_classes(encoding="palette" if colour else "index")
    root = write_set(tmp_path / "my data")
    palette = np.array(CLASSES["palette_rgb"], np.uint8)
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(palette[blob()] if colour else blob(200)).save(
            path.with_suffix(".jpg"), quality=quality
        )
        path.unlink()
    text = tmp_path / "mine.yaml"
    text.write_text(
        dump_recipe(load_recipe(find_recipe("edaformer_nano_synthetic")).model_copy(update={"data": data}))
    )
    assert run(["data", "check", str(text), "--data-root", str(root)]) == 3
    shown = capsys.readouterr().out
    commands = [
        line.rpartition("edgeseg data masks ")[2]
        for line in shown.splitlines()
        if "edgeseg data masks " in line
    ]
    assert "JPEG" in shown and len(commands) == 2
    for command in commands:
        assert run(["data", "masks", *shlex.split(command)]) == 0
    train, _ = opened(root, two_classes())
    assert (train.load(0)[1] != blob()).mean() < 0.01


def test_blended_edges_are_told_from_class_indices(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for path in (root / "labels").rglob("*.png"):
        small = Image.fromarray(blob(255))
        small.resize((97, 71), Image.Resampling.BILINEAR).resize(
            SIZE_HW[::-1], Image.Resampling.BILINEAR
        ).save(path)
    problem = next(problem for problem in checked(root).problems if problem.kind == "values")
    assert "blended" in problem.message and "--values 0,255" in problem.mend


def test_a_photograph_as_its_own_label(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for split in ("train", "val"):
        for path in (root / f"images/{split}").iterdir():
            (root / f"labels/{split}/{path.name}").write_bytes(path.read_bytes())
    problem = next(problem for problem in checked(root).problems)
    assert problem.kind == "label" and "is the image itself" in problem.message


def test_coloured_labels_of_the_palette_name_the_encoding(tmp_path: Path) -> None:
    root = write_set(tmp_path, mask=np.array(CLASSES["palette_rgb"], np.uint8)[blob()])
    with pytest.raises(DataError, match="the palette's colours") as caught:
        open_dataset(two_classes(), "train", root)
    assert "--set data.encoding=palette" in caught.value.hint


def test_unknown_colours_name_the_nearest(tmp_path: Path) -> None:
    colours = np.array([[0, 90, 0], [60, 60, 200]], np.uint8)
    problem = next(
        iter(checked(write_set(tmp_path, mask=colours[blob()]), two_classes(encoding="palette")).problems)
    )
    assert "(60, 60, 200) (768 px) nearest to" in problem.message


def test_swapped_red_and_blue(tmp_path: Path) -> None:
    classes = {"names": ["ground", "thing"], "palette_rgb": [[10, 90, 200], [200, 0, 0]]}
    swapped = np.array(classes["palette_rgb"], np.uint8)[:, ::-1][blob()]
    problem = next(
        iter(
            checked(
                write_set(tmp_path, mask=swapped), two_classes(encoding="palette", classes=classes)
            ).problems
        )
    )
    assert "red and blue are swapped" in problem.message and "[[200, 90, 10], [0, 0, 200]]" in problem.mend


@pytest.mark.parametrize("transparent", [False, True])
def test_alpha_is_dropped_where_it_says_nothing(tmp_path: Path, transparent: bool) -> None:
    mask = np.concatenate(
        [np.repeat(blob()[..., None], 3, axis=2), np.full((*SIZE_HW, 1), 255, np.uint8)], axis=2
    )
    if transparent:
        mask[:3, :, 3] = 0
    root = write_set(tmp_path, mask=mask)
    if transparent:
        with pytest.raises(DataError, match="transparent in places"):
            open_dataset(two_classes(), "train", root)
    else:
        np.testing.assert_array_equal(open_dataset(two_classes(), "train", root).load(0)[1], blob())


def test_a_palette_in_another_order_than_the_recipes(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for path in (root / "labels").rglob("*.png"):
        image = Image.fromarray(blob(0, 1)).convert("P")
        image.putdata(blob(0, 1).ravel().tolist())
        image.putpalette([200, 0, 0, 0, 90, 0])
        image.save(path)
    assert "mean different classes" in only(checked(root).problems, "values").message


@given(
    st.integers(1, 6),
    st.dictionaries(st.integers(0, 70000), st.integers(1, 10**6), min_size=1, max_size=40),
    st.sampled_from([255, 6, 200]),
)
def test_any_values_get_a_line(classes: int, counts: dict[int, int], ignored: int) -> None:
    labels = LabelSpace(tuple(map(str, range(classes))), tuple((n, n, n) for n in range(classes)), ignored)
    told, mend = explain_values(counts, labels, {*range(classes), ignored}, Path("labels"))
    assert isinstance(told, str) and mend
    if "--set" in mend and ";" not in mend:
        override = shlex.split(mend.rpartition("--set ")[2])[0]
        data = two_classes(
            classes={"names": labels.names, "palette_rgb": labels.palette_rgb, "ignore_index": ignored}
        )
        folders = "data=" + dump_yaml(data.model_dump(mode="json"), one_line=True)
        assert load_recipe(find_recipe("edaformer_nano_synthetic"), (folders, override)).data.index_map
