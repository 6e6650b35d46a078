"""A quantized model through its file: the same bits on the other side, or a reason why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.checkpoints.int8_file import prepare, save_quantized
from edgeseg.checkpoints.models import calibration_tensors, load_quantized
from edgeseg.errors import DataError, RecipeError
from edgeseg.images import ImageU8
from edgeseg.int8.calibrate import calibrate
from edgeseg.int8.coverage import coverage
from edgeseg.int8.scales import scales
from edgeseg.models import build_model
from edgeseg.models.reference import TorchReference
from edgeseg.recipe.labels import label_space
from edgeseg.recipe.load import load_recipe
from edgeseg.recipe.schema import Calibration, Classes, Data, Quant, Recipe, Split
from edgeseg.specs import IsrPlan, LabelSpace
from edgeseg.synthetic.scene import Scene
from golden_rule import fill

SIZE_HW = (64, 64)
LABELS = label_space("synthetic")
QUANT = Quant(
    calibration=Calibration(images="none"),
    attention="float",
    keep_float=("decoder.fuse.2",),
    min_coverage=0.0,
    max_miou_drop=1.0,
    qat=None,
)
"""One layer is float, to see that the placement travels."""
PLAN = IsrPlan((2, 1, 1, 1), (1, 1, 1))


def recipe(**changes: Any) -> Recipe:
    loaded = load_recipe("edaformer_nano_synthetic")
    export = loaded.export.model_copy(update={"size_hw": SIZE_HW})
    return loaded.model_copy(update={"export": export, "quant": QUANT, **changes})


def scene(seed: int = 0) -> ImageU8:
    return Scene(seed, SIZE_HW).frame(0)[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file, and the model that was saved."""
    model = fill(build_model("edaformer_nano", LABELS.num_classes)).eval()
    model.set_isr(PLAN)
    prepared = prepare(model, model.image_spec(SIZE_HW), QUANT)
    report = calibrate(prepared.model, calibration_tensors([scene(1), scene(2)], prepared.image), QUANT)
    path = tmp_path_factory.mktemp("int8") / "int8.safetensors"
    save_quantized(
        path,
        prepared.model,
        arch="edaformer_nano",
        options={},
        labels=LABELS,
        plan=PLAN,
        size_hw=SIZE_HW,
        settings=QUANT,
        float_sha256="f" * 64,
        calibration=report.to_json(),
        coverage=coverage(prepared.model, prepared.hints, QUANT, SIZE_HW).to_json(),
    )
    return path, prepared


def test_what_is_read_is_what_was_written_to_the_bit(saved: tuple[Path, Any]) -> None:
    path, prepared = saved
    read = load_quantized(recipe(), path)
    assert (read.arch, read.plan, read.settings, read.image) == (
        "edaformer_nano",
        PLAN,
        QUANT,
        prepared.image,
    )
    assert (read.facts["kind"], read.facts["qat"]) == ("quantized", None)
    assert read.facts["coverage"]["share"] < 1
    assert all(torch.equal(value, scales(prepared.model)[name]) for name, value in scales(read.model).items())
    expected = TorchReference(prepared.model, prepared.image, 1).logits(scene())
    assert torch.equal(read.reference(1).logits(scene()), expected)


def test_the_file_holds_plain_tensors_and_json_alone(saved: tuple[Path, Any]) -> None:
    with safe_open(saved[0], framework="pt") as file:
        names = list(file.keys())
        facts = json.loads(file.metadata()["edgeseg"])
    assert not [name for name in names if "quantizer" in name or "amax" in name]
    assert {name.split(".")[0] for name in names} == {"weights", "scales"}
    assert facts["isr"] == {"encoder": [2, 1, 1, 1], "decoder": [1, 1, 1]}


def test_another_plan_takes_the_same_scales(saved: tuple[Path, Any]) -> None:
    base = load_quantized(recipe(), saved[0], IsrPlan())
    assert base.plan == IsrPlan()
    assert base.model.isr_plan == IsrPlan()
    assert torch.isfinite(base.reference(1).logits(scene())).all()
    with pytest.raises(RecipeError, match="ISR"):
        load_quantized(recipe(), saved[0], IsrPlan((3, 1, 1, 1), (1, 1, 1)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attention": "int8"}, "quantized with quant.attention: float, the recipe says int8"),
        ({"first_conv": "float"}, "quantized with quant.first_conv: int8, the recipe says float"),
        ({"keep_float": ("decoder.classifier",)}, "quantized without quant.keep_float: decoder.classifier"),
    ],
)
def test_a_recipe_of_another_placement_is_refused(
    saved: tuple[Path, Any], change: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told) as caught:
        load_quantized(recipe(quant=QUANT.model_copy(update=change)), saved[0])
    assert "edgeseg quantize" in caught.value.hint


def test_classes_are_the_recipes_or_refused(saved: tuple[Path, Any]) -> None:
    """A bundle holds this program beside its float twin: one list of names and colours for both."""

    def folders(names: tuple[str, ...], palette: Any) -> Data:
        split = Split(images="images", labels="labels")
        return Data(
            format="folders", classes=Classes(names=names, palette_rgb=palette), train=split, val=split
        )

    grey = tuple((10 * i, 10 * i, 10 * i) for i in range(LABELS.num_classes))
    assert load_quantized(recipe(data=folders(LABELS.names, grey)), saved[0]).labels == LabelSpace(
        LABELS.names, grey
    )
    for names in (LABELS.names[::-1], ("tarmac", *LABELS.names[1:])):
        with pytest.raises(DataError, match="class 0 is "):
            load_quantized(recipe(data=folders(names, grey)), saved[0])


def test_more_float_layers_than_the_recipe_names_are_taken(saved: tuple[Path, Any]) -> None:
    assert (
        load_quantized(recipe(quant=QUANT.model_copy(update={"keep_float": ()})), saved[0]).settings == QUANT
    )


def test_files_that_are_something_else(saved: tuple[Path, Any], tmp_path: Path) -> None:
    held = load_checkpoint(saved[0])
    cases: list[tuple[dict[str, torch.Tensor], dict[str, Any], str]] = [
        ({}, {**held.meta, "kind": "weights"}, "no quantized checkpoint, but of kind 'weights'"),
        (held.tensors, {**held.meta, "form": "abacus"}, "its form is 'abacus'"),
        (
            held.tensors,
            {**held.meta, "quant": {"calibration": 3}},
            "cannot read what the file says of itself",
        ),
        (
            {k: v for k, v in held.tensors.items() if k != "scales.decoder.classifier.input_scale"},
            held.meta,
            "scales do not fit",
        ),
        (
            {k: v for k, v in held.tensors.items() if k != "weights.decoder.classifier.bias"},
            held.meta,
            "weights do not fit",
        ),
    ]
    for tensors, meta, told in cases:
        save_checkpoint(tmp_path / "x.safetensors", tensors, meta)
        with pytest.raises(DataError, match=told):
            load_quantized(recipe(), tmp_path / "x.safetensors")
    other = recipe(model=recipe().model.model_copy(update={"arch": "segformer_nano"}))
    with pytest.raises(DataError, match="holds edaformer_nano"):
        load_quantized(other, saved[0])
    damaged = bytearray(saved[0].read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    with pytest.raises(DataError, match="does not match its digest"):
        load_quantized(recipe(), tmp_path / "damaged.safetensors")
