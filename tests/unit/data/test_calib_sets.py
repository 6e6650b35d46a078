"""Calibration sets: what is chosen, that a set means the very files it names, and what is said where it does
not.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.cli.main import run
from edgeseg.data.calib import CalibSet, calib_catalogue, load_calib, write_calib
from edgeseg.data.calib_choice import Looks, choose, features_of, make_calib
from edgeseg.data.calib_images import open_calib, verify
from edgeseg.data.datasets import open_dataset
from edgeseg.errors import DataError
from edgeseg.images import read_image
from edgeseg.recipe.load import catalogue, load_recipe
from trees import Tree, camvid, folders, section, stripes, write_image, write_label

SYNTHETIC = section("synthetic")


def street(root: Path, count: int = 6) -> Tree:
    """CamVid folders with `count` training images; class 10 in the last alone, class 5 in none."""
    for number in range(count):
        write_image(root / f"train/{number}.png", seed=number)
        last = number == count - 1
        write_label(root / f"trainannot/{number}.png", stripes([k for k in range(10 + last) if k != 5]))
    camvid_tree = camvid(root / "other")
    return Tree(camvid_tree.data, root, 11, {})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Tree, CalibSet]:
    tree = street(tmp_path / "data")
    return tree, make_calib(tree.data, tree.root, 4, "four")


def test_a_set_survives_its_file(made: tuple[Tree, CalibSet], tmp_path: Path) -> None:
    tree, chosen = made
    write_calib(chosen, tmp_path / "sets/four.yaml", "two\nlines")
    text = (tmp_path / "sets/four.yaml").read_text()
    assert text.startswith("# two\n# lines\nname: four\n") and str(tree.root) not in text
    again = load_calib(tmp_path / "sets/four.yaml")
    assert again == chosen and again.sha256 == chosen.sha256
    images = open_calib(again, tree.data, tree.root)
    assert len(images) == 4
    for image, named in zip(images, chosen.images, strict=True):
        assert np.array_equal(image, read_image(tree.root / named.path))


def test_the_only_image_of_a_class_is_chosen_and_a_class_that_never_appears_is_told(
    made: tuple[Tree, CalibSet],
) -> None:
    tree, chosen = made
    assert "train/5.png" in {image.path for image in chosen.images}
    row = next(row for row in chosen.classes if row.name == "Bicyclist")
    assert (row.images, row.available) == (1, 1)
    assert chosen.never_seen == ("Tree",)
    assert any("no image shows Tree" in text for text in open_calib(chosen, tree.data, tree.root).warnings)


def test_order_and_seed_decide_the_set(made: tuple[Tree, CalibSet]) -> None:
    tree, chosen = made
    assert make_calib(tree.data, tree.root, 4, "again").sha256 == chosen.sha256
    assert make_calib(tree.data, tree.root, 2, "two").images == chosen.images[:2]
    turned = chosen.model_copy(update={"images": chosen.images[::-1]})
    assert turned.sha256 != chosen.sha256


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.integers(1, 4), st.integers(0, 2**31))
def test_the_choice_is_as_good_as_is_proved(classes: int, images: int, wanted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    looks = Looks(rng.integers(0, 3, (images, classes)) * 50, rng.uniform(0, 255, images))
    features = features_of(looks)
    order = choose(looks, images, seed % 7)
    assert sorted(order) == list(range(images))
    wanted = min(wanted, images)
    assert choose(looks, wanted, seed % 7) == order[:wanted]
    best = max(np.sqrt(features[list(some)].sum(0)).sum() for some in combinations(range(images), wanted))
    assert np.sqrt(features[order[:wanted]].sum(0)).sum() >= (1 - 1 / np.e) * best - 1e-9


def test_rare_classes_beat_a_random_draw() -> None:
    rng = np.random.default_rng(0)
    counts = np.full((200, 2), 100, np.int64)
    counts[:, 1] = 0
    counts[rng.permutation(200)[:20], 1] = 100
    order = choose(Looks(counts, rng.normal(120, 10, 200).clip(0, 255)), 32)
    assert (counts[order, 1] > 0).sum() >= 10  # a random draw has three of them


def test_a_changed_byte_and_a_missing_file_are_named(made: tuple[Tree, CalibSet]) -> None:
    tree, chosen = made
    first, second = (tree.root / image.path for image in chosen.images[:2])
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(DataError) as told:
        verify(chosen, tree.root)
    assert f"1 missing: {chosen.images[1].path}; 1 changed: {chosen.images[0].path}" in str(told.value)
    assert "make the set anew" in told.value.hint


def test_images_of_another_data_set_are_refused(made: tuple[Tree, CalibSet], tmp_path: Path) -> None:
    _, chosen = made
    other = camvid(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="another data set"):
        open_calib(chosen, other.data, other.root)
    tree = folders(tmp_path / "folders")
    with pytest.raises(DataError, match="is of camvid data, the recipe's are folders"):
        open_calib(chosen, tree.data, tree.root)
    with pytest.raises(DataError, match="no such folder"):
        open_calib(chosen, other.data, tmp_path / "nowhere")


def test_another_list_of_classes_is_refused(tmp_path: Path) -> None:
    tree = folders(tmp_path)
    chosen = make_calib(tree.data, tree.root, 2, "two")
    assert tree.data.classes is not None
    renamed = tree.data.model_copy(
        update={"classes": tree.data.classes.model_copy(update={"names": ("ground", "something else")})}
    )
    with pytest.raises(
        DataError, match="class 1 is 'something else' in the recipe, 'thing' in the calibration set two"
    ):
        open_calib(chosen, renamed, tree.root)


def test_images_outside_the_training_split_are_told(made: tuple[Tree, CalibSet]) -> None:
    tree, chosen = made
    split = {"images": "train", "labels": "trainannot", "exclude": ["5"]}
    warnings = open_calib(chosen, section("camvid", train=split), tree.root).warnings
    assert any("1 images are not of the recipe's training split: train/5.png" in text for text in warnings)


@pytest.mark.parametrize("count,said", [(0, "holds no images"), (1, "holds 1 image")])
def test_too_few_images(made: tuple[Tree, CalibSet], count: int, said: str) -> None:
    tree, chosen = made
    with pytest.raises(DataError, match=said):
        open_calib(chosen.model_copy(update={"images": chosen.images[:count]}), tree.data, tree.root)
    with pytest.raises(DataError, match=f"set of {count} image"):
        make_calib(tree.data, tree.root, count, "few")


def test_more_images_than_there_are(made: tuple[Tree, CalibSet]) -> None:
    tree, _ = made
    with pytest.raises(DataError, match="7 images wanted, the training split has 6") as told:
        make_calib(tree.data, tree.root, 7, "seven")
    assert "--n 6" in told.value.hint


@pytest.mark.parametrize(
    "old,new,said",
    [
        ("split: train", "split: test", ":8: split: "),
        ("name: four", "name: four\nname: four", "written twice"),
        ("path: train", "path: /etc/train", "a path below the data root"),
        ("path: train", "path: ../train", "a path below the data root"),
        ("sha256: ", "sha256: 0", "sha256: String should match"),
        ("format: camvid", "format: synthetic", "have a sha256"),
        ("images:", "pictures:", "images: Field required"),
    ],
)
def test_a_file_that_is_no_set(
    made: tuple[Tree, CalibSet], tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = tmp_path / "four.yaml"
    write_calib(made[1], file, "\n".join("12345"))
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as told:
        load_calib(file)
    assert said in str(told.value) and str(file) in str(told.value)


def test_a_set_that_is_not_there() -> None:
    with pytest.raises(DataError) as told:
        load_calib("camvid_train_46")
    assert "did you mean camvid_train_64?" in told.value.hint


def test_generated_images_go_by_name() -> None:
    chosen = load_calib("synthetic_train_16")
    assert all(image.sha256 is None for image in chosen.images)
    images = open_calib(chosen, SYNTHETIC, Path("nowhere"))
    dataset = open_dataset(SYNTHETIC, "train", Path())
    index = next(i for i in range(len(dataset)) if dataset.name(i) == chosen.images[0].path)
    assert np.array_equal(images.load(0), dataset.load(index)[0]) and images.warnings == ()
    unknown = chosen.images[0].model_copy(update={"path": "synthetic/train/999999"})
    with pytest.raises(DataError, match="no generated images have these names: synthetic/train/999999"):
        verify(chosen.model_copy(update={"images": (unknown, *chosen.images[1:])}), Path())


@pytest.mark.parametrize("name", calib_catalogue())
def test_every_shipped_set_loads_and_is_whole(name: str) -> None:
    found = load_calib(name)
    assert found.name == name and not found.warnings()


def test_every_recipe_names_a_set_that_ships() -> None:
    for name in catalogue():
        quant = load_recipe(name).quant
        if quant is not None:
            assert load_calib(quant.calibration.images).format == load_recipe(name).data.format


def test_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = street(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        catalogue()["edaformer_nano_synthetic"].read_text().replace("format: synthetic", "format: camvid")
    )
    root = ["--data-root", str(tree.root)]
    assert run(["calib", "make", str(recipe), *root, "--n", "4", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    file = Path("calib/camvid_train_4.yaml")
    assert Path(made["path"]) == file and made["sha256"] == load_calib(file).sha256
    assert run(["calib", "make", str(recipe), *root, "--n", "3", "-o", str(file)]) == 3
    assert "holds another calibration set" in capsys.readouterr().err
    assert run(["calib", "show", str(file), "--sheet", "sheet.png", *root]) == 0
    shown = capsys.readouterr().out
    assert "Bicyclist" in shown and "no image shows Tree" in shown and "brightness" in shown
    assert read_image(Path("sheet.png")).shape[2] == 3
    assert run(["calib", "check", str(file), *root, "--recipe", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    (tree.root / load_calib(file).images[0].path).write_bytes(b"other")
    assert run(["calib", "check", str(file), *root]) == 3
    said = capsys.readouterr().err
    assert "1 changed" in said and "hint:" in said
