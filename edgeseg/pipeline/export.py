"""Checkpoint -> bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeseg import __version__
from edgeseg.bundle import Bundle, create_bundle, open_bundle
from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.datasets import open_dataset
from edgeseg.engines.table import backend
from edgeseg.errors import BundleError, RecipeError
from edgeseg.isr.plans import load_levels
from edgeseg.recipe.load import dump_recipe, recipe_digest
from edgeseg.recipe.schema import Data, Recipe
from edgeseg.specs import DEFAULT_FORM, IsrPlan
from edgeseg.trained import load_trained

if TYPE_CHECKING:
    from edgeseg.export.program import Form, Weights

GOLDEN_FRAMES = 4
_GENERATED = Data(format="synthetic", classes=None, train=None, val=None)


def export_bundle(
    recipe: Recipe,
    checkpoint: Path,
    out: Path,
    *,
    levels: Path | Sequence[IsrPlan] = (),
    data_root: Path | None = None,
    weights: Weights = "fp32",
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Bundle, bool]:
    """Turn a checkpoint into a bundle: a program for each level, golden frames, and how closely both agree.

    A program comes in the default form, and in that of every runtime that the recipe's targets name: the same function, laid out
    as that runtime likes it. All forms read the same weights as far as they are equal.

    Args:
        out: the bundle's folder.
        levels: ISR plans, from most exact to fastest, one level each, or the plan.json of a search, which is packed as the report
            `isr`; none: one level at the recipe's plan. What weights levels share, which is nearly all, is stored once.
        data_root: golden frames are taken from the validation split below it; without it, from generated street scenes.
        weights: "fp32", or "fp16" for half the file: stored as fp16 and widened at load.
        reports: further JSON documents to pack.
        force: make it anew even where nothing changed.
    Returns:
        The bundle, and whether it was made now: one that came from the same inputs is kept.
    Raises:
        ParityError: a program does not compute what the model does; an earlier bundle is untouched.
        Unsupported: a target of the recipe is no runtime.
        RecipeError: the image size does not fit a level's plan, or a plan is named twice.
    """
    from edgeseg.export.golden import golden_frames, golden_images
    from edgeseg.export.parity import compare
    from edgeseg.export.program import export_program
    from edgeseg.export.shared_weights import share_weights

    progress = progress or NoProgress()
    reports = {**(reports or {})}
    trained = load_trained(recipe, checkpoint)
    if isinstance(levels, Path):
        found = load_levels(levels, checkpoint_sha256=trained.sha256, size_hw=recipe.export.size_hw)
        levels = [level.plan for level in found]
        reports["isr"] = {"levels": [level.to_json() for level in found]}
    plans = list(levels) or [recipe.isr.plan()]
    if twice := sorted({str(plan) for plan in plans if plans.count(plan) > 1}):
        raise RecipeError(f"two levels at one ISR plan: {', '.join(twice)}", hint="name each plan once")
    models = [trained.at(plan) for plan in plans]
    inputs = {
        "edgeseg": __version__,
        "recipe": recipe_digest(recipe),
        "checkpoint_sha256": trained.sha256,
        "weights": weights,
        "golden_from": "validation split" if data_root else "generated scenes",
        "levels": [str(plan) for plan in plans],
        "reports_sha256": hashlib.sha256(json.dumps(reports, sort_keys=True).encode()).hexdigest(),
    }
    if not force and (kept := _same_inputs(out, inputs)) is not None:
        return kept, False
    data = recipe.data if data_root else _GENERATED
    backends = [backend(target.runtime) for target in recipe.targets]
    forms: list[Form] = list(dict.fromkeys((DEFAULT_FORM, *(runtime.form for runtime in backends))))  # type: ignore[arg-type]
    images = golden_images(open_dataset(data, "val", data_root or Path()), GOLDEN_FRAMES, trained.image.size_hw)
    with TemporaryDirectory(prefix="edgeseg-export-") as folder:
        programs = []
        for level, at_plan in enumerate(models):
            size = "x".join(map(str, at_plan.image.size_hw))
            for form in forms:
                progress.message(f"level {level}: exporting {recipe.name} for {form} at {size}, ISR {plans[level]}")
                programs.append(
                    export_program(
                        at_plan.model,
                        image=at_plan.image,
                        labels=trained.labels,
                        mask_stride=recipe.export.mask_stride,
                        arch=trained.arch,
                        opset=recipe.export.opset,
                        out=Path(folder) / f"{level}-{form}.onnx",
                        weights=weights,
                        form=form,
                    )
                )
        if len(programs) > 1:
            programs = share_weights(programs, Path(folder) / "shared")
        golden, parity = [], []
        for level, at_plan in enumerate(models):
            reference = at_plan.reference(recipe.export.mask_stride)
            progress.message(f"level {level}: comparing with torch")
            default, *others = programs[level * len(forms) : (level + 1) * len(forms)]
            climbed = {program.form: compare(reference, program, [image for _, image in images]) for program in others}
            report = {"isr": str(plans[level]), **compare(reference, default, [image for _, image in images])}
            parity.append({**report, "forms": climbed} if climbed else report)
            golden += golden_frames(reference, images, level)
        documents: dict[str, Mapping[str, Any]] = {"export": inputs, "parity": {"levels": parity}, **reports}
        bundle = create_bundle(out, recipe_text=dump_recipe(recipe), programs=programs, golden=golden, reports=documents)
    return bundle, True


def _same_inputs(out: Path, inputs: Mapping[str, Any]) -> Bundle | None:
    """The bundle at `out`, if it was made from exactly these inputs and is intact."""
    try:
        bundle = open_bundle(out)
        made_from = bundle.report("export")
        bundle.verify()
    except BundleError:
        return None
    return bundle if made_from == inputs else None
