"""Going on with a run: another recipe, other data and other classes are told, with the command that helps."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.cli.main import run as command
from edgeseg.contracts import NoProgress
from edgeseg.data.datasets import FolderDataset, open_dataset
from edgeseg.errors import DataError
from edgeseg.models import build_model
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import ImageU8, LabelSpace, MaskU8
from edgeseg.training.float import train
from edgeseg.training.initial import load_initial
from edgeseg.training.resume import data_changes, data_facts
from trees import section, stripes, write_image, write_label

CLASSES = {"names": ["ground", "thing"], "palette_rgb": [[0, 90, 0], [200, 0, 0]]}
TWO = LabelSpace(("ground", "thing"), ((0, 90, 0), (200, 0, 0)))
DATA = section(
    "folders",
    classes=CLASSES,
    train={"images": "train/i", "labels": "train/l"},
    val={"images": "val/i", "labels": "val/l"},
)


def recipe(*overrides: str) -> Recipe:
    steps = (
        "train.steps=2",
        "train.batch_size=2",
        "train.warmup_steps=1",
        "train.val_every=2",
        "train.checkpoint_every=2",
    )
    small = ("augment.crop_hw=[32,32]", "export.size_hw=[32,32]")
    return load_recipe(find_recipe("edaformer_nano_synthetic"), (*steps, *small, *overrides)).model_copy(
        update={"data": DATA}
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for number in range(3):
            write_image(
                tmp_path / f"data/{split}/i/{number}.jpg", (32, 32), seed=number + 10 * (split == "val")
            )
            write_label(tmp_path / f"data/{split}/l/{number}.png", stripes([0, 1], (32, 32)))
    return tmp_path / "data"


class Told(NoProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def go(chosen: Recipe, root: Path, out: Path) -> list[str]:
    told = Told()
    train(chosen, root, out, device="cpu", workers=0, progress=told)
    return told.messages


def test_changed_data_is_told_and_recorded(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(recipe(), root, out)
    assert not [text for text in go(recipe(), root, out) if "data is not" in text]
    write_image(root / "train/i/9.jpg", (32, 32), seed=99)
    write_label(root / "train/l/9.png", stripes([0, 1], (32, 32)))
    told = [text for text in go(recipe(), root, out) if "data is not" in text]
    assert len(told) == 1 and "train: 3 -> 4 samples" in told[0] and "val" not in told[0]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("3 -> 4" in row["data_changed"][0] for row in rows if "data_changed" in row)


def test_labels_that_are_mostly_ignored_are_told_by_training(root: Path, tmp_path: Path) -> None:
    for path in (root / "train/l").iterdir():
        write_label(path, stripes([0, 255, 255, 255, 1, 255], (32, 32)))
    assert any("of the pixels are ignored" in text for text in go(recipe(), root, tmp_path / "run"))


@pytest.mark.parametrize("change", ["content", "size", "name", "fewer"])
def test_any_change_of_the_files_is_seen(root: Path, change: str) -> None:
    def facts() -> dict[str, Any]:
        return data_facts(open_dataset(DATA, "train", root), open_dataset(DATA, "val", root))

    before = facts()
    label = root / "val/l/1.png"
    if change == "content":
        content = bytearray(label.read_bytes())
        write_label(label, stripes([1, 0], (32, 32)))
        assert label.read_bytes() != bytes(content)
    elif change == "size":
        write_label(label, np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8))
    else:
        for path in (label, root / "val/i/1.jpg"):
            path.rename(path.with_stem("renamed")) if change == "name" else path.unlink()
    assert data_changes(before, before, root) == []
    (told,) = data_changes(before, facts(), root)
    assert told.startswith("val: ")


def test_a_large_set_is_known_by_names_and_sizes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.training.resume.HASHED_BYTES", 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    data = open_dataset(DATA, "train", root)
    assert data_facts(data, data)["train"]["samples"] == 3


def test_other_classes_are_refused() -> None:
    @dataclass
    class Bare:
        labels: LabelSpace

        def __len__(self) -> int:
            return 0

        def name(self, index: int) -> str:
            raise IndexError

        def load(self, index: int) -> tuple[ImageU8, MaskU8]:
            raise IndexError

    one, two = (Bare(LabelSpace(names, ((0, 0, 0), (1, 1, 1)))) for names in (("a", "b"), ("b", "a")))
    with pytest.raises(DataError, match="classes a, b; the data now has b, a"):
        data_changes(data_facts(one, one), data_facts(two, two), Path("run"))
    assert data_changes({}, data_facts(two, two), Path("run")) == []


def test_a_changed_schedule_names_what_changed_and_how_to_go_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    go(recipe(), root, out)
    with pytest.raises(DataError, match=r"train\.steps 2 -> 4") as caught:
        go(recipe("train.steps=4"), root, out)
    (line,) = [line for line in caught.value.hint.splitlines() if "--init" in line]
    words = shlex.split(line)
    assert (
        words[:2] == ["edgeseg", "train"]
        and str(out / "best.safetensors") in words
        and "--fresh" in caught.value.hint
    )
    text = tmp_path / "mine.yaml"
    text.write_text(dump_recipe(recipe("train.steps=4")))
    words[words.index("DIR")], words[2] = str(root), str(text)
    assert command([*words[1:], "--device", "cpu", "--workers", "0"]) == 0


def test_another_number_of_classes_names_what_to_skip(root: Path, tmp_path: Path) -> None:
    saved, model = tmp_path / "three.safetensors", build_model("edaformer_nano", 3)
    save_checkpoint(
        saved, model.state_dict(), {"kind": "weights", "arch": "edaformer_nano", "num_classes": 3}
    )
    two = build_model("edaformer_nano", 2)
    with pytest.raises(DataError, match="2 mis-shaped") as caught:
        load_initial(two, saved, recipe(), TWO)
    skip = ("decoder.classifier.*",)
    assert f"train.init_skip: {json.dumps(skip)}" in caught.value.hint
    load_initial(two, saved, recipe(f"train.init_skip={json.dumps(skip)}"), TWO)
    override = shlex.split(caught.value.hint.rpartition("--set ")[2])[0]
    assert recipe(override).train.init_skip == skip


def test_a_file_that_fits_nowhere_is_not_to_be_skipped(tmp_path: Path) -> None:
    saved = tmp_path / "other.safetensors"
    save_checkpoint(
        saved, build_model("segformer_b0", 2).state_dict(), {"kind": "weights", "arch": "segformer_b0"}
    )
    with pytest.raises(DataError) as caught:
        load_initial(build_model("edaformer_nano", 2), saved, recipe(), TWO)
    assert "init_skip" not in caught.value.hint


def test_an_init_from_elsewhere_names_the_import(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path, text = tmp_path / "x.bin", tmp_path / "mine.yaml"
    torch.save({"a.weight": torch.zeros(1)}, path)
    text.write_text(dump_recipe(recipe()))
    assert (
        command(
            ["train", str(text), "--data-root", str(root), "--init", str(path), "-o", str(tmp_path / "r")]
        )
        == 3
    )
    assert f"edgeseg weights import {path} --arch edaformer_nano" in capsys.readouterr().err


def test_samples_of_a_folder_are_what_is_hashed(root: Path) -> None:
    data = open_dataset(DATA, "train", root)
    assert isinstance(data, FolderDataset)
    fewer = FolderDataset(data.format, [replace(sample) for sample in data.samples[:2]])
    assert data_facts(data, data)["train"]["sha256"] != data_facts(fewer, data)["train"]["sha256"]
