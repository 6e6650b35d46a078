"""Names and colours of classes are never silently wrong: between recipe, checkpoint, bundle, data, and
published files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import published
from broken_recipes import folders, good, put
from edgeseg.bundle import open_bundle
from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.checkpoints.models import load_trained
from edgeseg.cli.main import root as cli
from edgeseg.errors import DataError, EdgesegError, RecipeError
from edgeseg.models import build_model
from edgeseg.models.class_names import label_space_of
from edgeseg.recipe.labels import FORMATS, difference, held_in, label_space, labels_of, order_in
from edgeseg.recipe.load import load_recipe, recipe_of
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import LabelSpace
from edgeseg.training.initial import class_dimensions, load_initial
from golden_rule import fill
from locations import REPOSITORY

NAMES = ("road", "sky", "car")
COLOURS = ((128, 64, 128), (70, 130, 180), (0, 0, 142))
LABELS = LabelSpace(NAMES, COLOURS)


def recipe(
    names: tuple[str, ...] = NAMES, colours: Any = COLOURS, arch: str = "edaformer_nano", **train: Any
) -> Recipe:
    data = good()
    classes = {"names": list(names), "palette_rgb": [list(colour) for colour in colours]}
    for path, value in (
        ("quant", None),
        ("data", folders(classes=classes)),
        ("model", {"arch": arch, "options": {}}),
    ):
        put(data, path, value)
    if arch != "edaformer_nano":
        put(data, "isr.decoder", [])
    data["train"] |= train
    data["export"]["size_hw"] = data["augment"]["crop_hw"] = [64, 64]
    return recipe_of(data, "test")


def saved(
    folder: Path, names: tuple[str, ...] | None = NAMES, arch: str = "edaformer_nano", **facts: Any
) -> Path:
    """A checkpoint whose parameters are all different from zero."""
    count = facts.pop("count", len(names or NAMES))
    model = fill(build_model(arch, count))
    if names is not None:
        palette = facts.pop("palette", [list(colour) for colour in COLOURS] * 2)
        facts["labels"] = {"names": list(names), "palette_rgb": palette[: len(names)], "ignore_index": 255}
    path = folder / "weights.safetensors"
    save_checkpoint(
        path, model.state_dict(), {"kind": "weights", "arch": arch, "num_classes": count, **facts}
    )
    return path


# --- comparing
# ----------------------------------------------------------------------------------------------------


@given(names=st.permutations(["road", "Sky", "traffic light", "side-walk", "a b"]))
def test_an_order_brings_names_to_their_places(names: list[str]) -> None:
    wanted = ("Road", "sky", "traffic_light", "sidewalk", "A  B")
    order = order_in(wanted, names)
    assert order is not None
    assert difference(wanted, [names[index] for index in order], "we", "they") is None


@pytest.mark.parametrize("held", [["a", "b"], ["a", "b", "x"], ["a", "A", "b"], ["a", "b", "b"]])
def test_what_is_not_certain_has_no_order(held: list[str]) -> None:
    assert order_in(["a", "b", "c"], held) is None


def test_names_that_differ_by_case_alone_keep_apart() -> None:
    assert order_in(["Car", "car"], ["car", "Car"]) == (1, 0)
    assert order_in(["Car", "car"], ["CAR", "cAr"]) is None


@pytest.mark.parametrize(
    "theirs, told",
    [
        (
            ["sky", "road", "car"],
            "the recipe has the classes of it in another order: class 0 is 'road' in the recipe, 'sky' in it",
        ),
        (
            ["road", "sky", "bus"],
            "the recipe calls 1 of 3 classes otherwise than it: class 2 is 'car' in the recipe, 'bus' in it",
        ),
        (["road", "sky"], "the recipe has 3 classes, it 2; only the recipe has car"),
        (["Road", "SKY", "car "], None),
    ],
)
def test_a_difference_is_told_by_class(theirs: list[str], told: str | None) -> None:
    found = difference(NAMES, theirs, "the recipe", "it")
    assert found is None if told is None else found is not None and found.startswith(told)


# --- starting from a checkpoint
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["edaformer_nano", "repsep_nano"])
def test_classes_in_another_order_are_taken_over_by_name(tmp_path: Path, arch: str) -> None:
    path, chosen = saved(tmp_path, ("Sky", "car", "road"), arch), recipe(arch=arch)
    model = build_model(arch, 3)
    (told,) = load_initial(model, path, chosen, LABELS)
    assert told.startswith(
        "classes are taken over by name: the data has the classes of the checkpoint in another order"
    )
    before, after = load_checkpoint(path).tensors, model.state_dict()
    counting = class_dimensions(chosen, 3)
    assert {name.rpartition(".")[0] for name in counting} >= {"decoder.classifier"}
    assert (arch == "repsep_nano") == (len(counting) > 2)
    for name, value in after.items():
        expected = before[name]
        for dimension in counting.get(name, []):
            expected = expected.index_select(dimension, torch.tensor([2, 0, 1]))
        assert torch.equal(value, expected), name
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    source = fill(build_model(arch, 3)).eval()
    with torch.no_grad():
        assert torch.allclose(model.eval()(images), source(images)[:, [2, 0, 1]], atol=1e-5)


@pytest.mark.parametrize(
    "names", [("road", "sky", "bus"), ("road", "sky"), ("road", "sky", "car", "bus"), ("a", "b", "c")]
)
def test_other_classes_are_refused_with_what_to_skip(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = saved(tmp_path, names)
    with pytest.raises(DataError, match="is of other classes: ") as caught:
        load_initial(build_model("edaformer_nano", 3), path, recipe(), LABELS)
    assert 'train.init_skip: ["decoder.classifier.*"]' in caught.value.hint
    assert (
        load_initial(
            build_model("edaformer_nano", 3), path, recipe(init_skip=["decoder.classifier.*"]), LABELS
        )
        == []
    )


def test_a_checkpoint_without_names_is_taken_at_its_word_and_told(tmp_path: Path) -> None:
    (told,) = load_initial(build_model("edaformer_nano", 3), saved(tmp_path, None), recipe(), LABELS)
    assert "does not name its classes: they are taken to be the data's, in the data's order" in told


def test_the_same_classes_need_no_word(tmp_path: Path) -> None:
    assert (
        load_initial(
            build_model("edaformer_nano", 3), saved(tmp_path, ("Road", "SKY", "car")), recipe(), LABELS
        )
        == []
    )


@pytest.mark.parametrize(
    "pattern, near",
    [
        ("decoder.clasifier.*", '; did you mean "decoder.classifier.*"?'),
        ("decoder.classifier", '; did you mean "decoder.classifier.*"?'),
        ("classifier.*", '; did you mean "decoder.classifier.*"?'),
        ("head.fc.*", ""),
    ],
)
def test_a_pattern_that_skips_nothing_is_an_error(tmp_path: Path, pattern: str, near: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_initial(
            build_model("edaformer_nano", 3),
            saved(tmp_path),
            recipe(init_skip=["encoder.*", pattern]),
            LABELS,
        )
    assert str(caught.value).startswith(f'train.init_skip: "{pattern}" matches no parameter{near}')


def test_skipping_everything_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="leaves nothing of"):
        load_initial(build_model("edaformer_nano", 3), saved(tmp_path), recipe(init_skip=["*"]), LABELS)


# --- a recipe with a checkpoint
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, told",
    [
        (("sky", "road", "car"), "in another order: class 0 is 'road' in the recipe, 'sky' in "),
        (("road", "sky", "bus"), "the recipe calls 1 of 3 classes otherwise than "),
        (("road", "sky", "car", "bus"), "was trained with 4 classes, the recipe names 3"),
    ],
)
def test_names_that_differ_stop_at_once(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(DataError) as caught:
        load_trained(recipe(), saved(tmp_path, names))
    assert told in str(caught.value)


def test_colours_are_the_recipes_and_a_difference_is_told(tmp_path: Path) -> None:
    green = ((0, 255, 0), *COLOURS[1:])
    trained = load_trained(recipe(colours=green), saved(tmp_path))
    assert trained.labels.palette_rgb == green
    (told,) = trained.told
    assert told.startswith("colours are the recipe's") and "road (0, 255, 0), not (128, 64, 128)" in told


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "synthetic"])
def test_a_format_supplies_its_classes(tmp_path: Path, form: str) -> None:
    own = label_space(form)
    data = good()
    put(data, "quant", None)
    put(data, "data", {"format": form, "classes": None, "train": None, "val": None})
    chosen = recipe_of(data, "test")
    trained = load_trained(chosen, saved(tmp_path, None, count=own.num_classes))
    assert trained.labels == own == labels_of(chosen.data)
    with pytest.raises(DataError, match="was trained with 3 classes") as caught:
        load_trained(chosen, saved(tmp_path, None))
    assert "correct data.classes" in caught.value.hint


def test_a_published_list_may_have_other_words_for_a_few(tmp_path: Path) -> None:
    """ "aeroplane" for "airplane" in 1 of 171 is a word; a name that stands elsewhere in the other list is
    another class.
    """
    own = label_space("coco_stuff")
    data = good()
    put(data, "quant", None)
    put(data, "data", {"format": "coco_stuff", "classes": None, "train": None, "val": None})
    chosen, names = recipe_of(data, "test"), list(own.names)
    names[names.index("airplane")] = "aeroplane"
    path = saved(tmp_path, None, count=own.num_classes, class_names=names)
    (told,) = load_trained(chosen, path).told
    assert "class 4 is 'airplane' in the recipe, 'aeroplane' in " in told and "taken for other words" in told
    (told,) = load_initial(build_model("edaformer_nano", own.num_classes), path, chosen, own)
    assert "taken for other words" in told
    names[0], names[4] = "boat", "airplane"
    with pytest.raises(DataError, match="class 0 is 'person' in the recipe, 'boat' in "):
        load_trained(chosen, saved(tmp_path, None, count=own.num_classes, class_names=names))
    with pytest.raises(DataError, match="'bus' in "):  # one of three is too many to be a word
        load_trained(recipe(), saved(tmp_path, None, class_names=["road", "sky", "bus"]))


def test_a_count_that_is_another_formats_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_trained(recipe(), saved(tmp_path, None, count=19))
    assert "data.format: cityscapes has 19" in caught.value.hint


def test_options_that_change_no_shape_are_compared(tmp_path: Path) -> None:
    data = good()
    put(data, "quant", None)
    put(data, "model", {"arch": "vwformer_nano", "options": {"heads": 2, "dropout": 0.3}})
    put(data, "isr.decoder", [])
    trained_with = recipe_of(data, "test")
    path = tmp_path / "weights.safetensors"
    facts = {
        "kind": "weights",
        "arch": "vwformer_nano",
        "num_classes": 10,
        "recipe": trained_with.model_dump(mode="json"),
    }
    save_checkpoint(path, build_model("vwformer_nano", 10, heads=2).state_dict(), facts)
    assert load_trained(trained_with, path).labels.num_classes == 10
    put(data, "model.options", {"dropout": 0.0})
    with pytest.raises(DataError, match="is a model with heads: 2, the recipe street says 1") as caught:
        load_trained(recipe_of(data, "test"), path)
    assert "model.options: heads: 2" in caught.value.hint


def test_a_bundle_does_not_contradict_itself(tmp_path: Path) -> None:
    """Recipe, programs and golden masks of one bundle: the same names and colours, whatever the checkpoint
    said.
    """
    green = ((0, 255, 0), *COLOURS[1:])
    text = tmp_path / "street.yaml"
    from edgeseg.recipe.load import dump_recipe

    text.write_text(dump_recipe(recipe(("Road", "sky", "car"), green)), encoding="utf-8")
    done = CliRunner().invoke(
        cli,
        ["export", str(text), "--checkpoint", str(saved(tmp_path)), "-o", str(tmp_path / "street.edgeseg")],
    )
    assert done.exit_code == 0, done.exception
    assert "colours are the recipe's" in done.stderr
    bundle = open_bundle(tmp_path / "street.edgeseg")
    assert (
        bundle.any_program().labels
        == labels_of(bundle.recipe().data)
        == LabelSpace(("Road", "sky", "car"), green)
    )


# --- from elsewhere
# ----------------------------------------------------------------------------------------------------

CITYSCAPES = label_space("cityscapes")


@pytest.mark.parametrize(
    "facts, beside, names, colours",
    [
        ({"meta": {"dataset_meta": {"classes": NAMES, "palette": COLOURS}}}, None, NAMES, COLOURS),
        ({"meta": {"CLASSES": list(NAMES), "PALETTE": [list(c) for c in COLOURS]}}, None, NAMES, COLOURS),
        ({"meta": {"PALETTE": [list(c) for c in COLOURS]}}, None, None, COLOURS),
        ({"meta": {"CLASSES": ("road ", " sky", "car")}}, None, NAMES, None),
        ({"hyper_parameters": {"class_names": list(NAMES)}}, None, NAMES, None),
        ({}, {"id2label": {"2": "car", "0": "road", "1": "sky"}}, NAMES, None),
        ({}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, None, None),
        ({}, {"id2label": {"0": "road"}}, None, None),
        ({}, [1], None, None),
        ({"meta": {"CLASSES": ("road", "road", "car")}}, None, None, None),
        ({"meta": {"CLASSES": ("road", "sky")}}, None, None, None),
        ({"meta": {"CLASSES": 3, "PALETTE": [[1, 2]]}}, None, None, None),
        ({"meta": {"PALETTE": [[1, 2, 300]] * 3}}, None, None, None),
        ({"meta": None, "names": {0: "road", 1: "sky", 2: "car"}}, None, NAMES, None),
    ],
)
def test_what_a_file_says_of_its_classes(
    tmp_path: Path, facts: Any, beside: Any, names: Any, colours: Any
) -> None:
    if beside is not None:
        (tmp_path / "config.json").write_text(json.dumps(beside), encoding="utf-8")
    held = label_space_of(facts, tmp_path / "model.pth", 3)
    assert (held.names, held.palette_rgb) == (names, colours)
    assert held_in({"num_classes": 3, **json.loads(json.dumps(held.to_facts()))}) == held


@pytest.mark.parametrize("order", ["as the format", "another"])
def test_an_imported_cityscapes_checkpoint_exports_without_a_list_of_names(
    tmp_path: Path, order: str
) -> None:
    names = CITYSCAPES.names if order == "as the format" else CITYSCAPES.names[::-1]
    meta = {
        "dataset_meta": {"classes": names, "palette": [list(colour) for colour in CITYSCAPES.palette_rgb]}
    }
    file = published.saved(tmp_path, {"meta": meta, "state_dict": published.segformer_nvlabs(19)})
    runner = CliRunner()
    imported = runner.invoke(
        cli, ["weights", "import", str(file), "--arch", "segformer_b0", "-o", str(tmp_path / "w.safetensors")]
    )
    assert imported.exit_code == 0, imported.exception
    assert "(those of cityscapes)" in imported.stdout
    data = good()
    for path, value in (
        ("model", {"arch": "segformer_b0", "options": {"width": published.WIDTH}}),
        ("isr.decoder", []),
        ("quant", None),
        ("data", {"format": "cityscapes", "classes": None, "train": None, "val": None}),
        ("export.size_hw", [64, 64]),
    ):
        put(data, path, value)
    trained_as = recipe_of(data, "test")
    if order == "another":
        with pytest.raises(
            DataError, match="in another order: class 0 is 'road' in the recipe, 'bicycle' in "
        ):
            load_trained(trained_as, tmp_path / "w.safetensors")
    else:
        assert load_trained(trained_as, tmp_path / "w.safetensors").labels == CITYSCAPES


def test_the_shipped_checkpoint_is_still_its_recipes() -> None:
    weights = REPOSITORY / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
    if not weights.is_file():
        pytest.skip("checkpoints/ did not come along")
    try:
        assert load_trained(load_recipe("edaformer_t_camvid"), weights).told == ()
    except EdgesegError as error:
        pytest.fail(f"{error}")
