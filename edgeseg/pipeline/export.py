"""Checkpoint -> bundle."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeseg import __version__
from edgeseg.bundle import Bundle, create_bundle, open_bundle
from edgeseg.bundle.files import check_place
from edgeseg.checkpoints.models import Quantized, Trained, load_quantized, load_trained
from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.datasets import open_dataset
from edgeseg.engines.table import backend
from edgeseg.errors import BundleError, DataError, RecipeError
from edgeseg.files import json_digest
from edgeseg.isr.plans import load_levels
from edgeseg.recipe.load import dump_recipe, recipe_digest
from edgeseg.recipe.schema import Data, Recipe
from edgeseg.specs import Form, IsrPlan
from edgeseg.text import quoted

if TYPE_CHECKING:
    from edgeseg.export.program import Weights

GOLDEN_FRAMES = 4
_GENERATED = Data(format="synthetic", classes=None, train=None, val=None)


def export_bundle(
    recipe: Recipe,
    checkpoint: Path,
    out: Path,
    *,
    quantized: Path | Sequence[Path] = (),
    levels: Path | Sequence[IsrPlan] = (),
    data_root: Path | None = None,
    weights: Weights = "fp32",
    half: bool = False,
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Bundle, bool]:
    """Turn a checkpoint into a bundle: programs for each level, golden frames, and how closely both agree.

    The recipe alone decides what is in the bundle, on whatever machine it is made. A float program comes in
    the default form, and in that of every runtime that the recipe's targets name; an INT8 program in the
    canonical form and in those for x86 and ARM processors. Forms of one precision are one function, laid out
    as its reader likes it. Where a target computes in the types that its program names, as TensorRT does,
    there is also a program in half precision, and an INT8 form with half precision between the integers. All
    programs read the same weights as far as they are equal.

    Args:
        out: the bundle's folder.
        quantized: the quantized checkpoint, where the recipe has a `quant` section; or several, of different
            ISR plans. A level takes the last one that was calibrated at its plan, else the first one's
            weights and scales.
        levels: ISR plans, from most exact to fastest, one level each, or the plan.json of a search, which is
            packed as the report `isr`; none: one level at the recipe's plan. What weights levels share, which
            is nearly all, is stored once.
        data_root: golden frames are taken from the validation split below it; without it, from generated
            street scenes.
        weights: of float programs: "fp32", or "fp16" for half the file: stored as fp16 and widened at load.
        half: write programs for GPUs, in half precision too, whatever the targets name.
        reports: further JSON documents to pack.
        force: make it anew even where nothing changed.
    Returns:
        The bundle, and whether it was made now: one that came from the same inputs is kept.
    Raises:
        ParityError: a program does not compute what the model does; an earlier bundle is untouched.
        Unsupported: a target of the recipe is no runtime.
        DataError: the recipe quantizes and there is no quantized checkpoint, or it was made from another
            float checkpoint.
        RecipeError: the image size does not fit a level's plan, a plan is named twice, or the recipe does not
            quantize.
    """
    from edgeseg.export.golden import golden_images
    from edgeseg.export.levels import FloatJob, HalfJob, Int8Job, export_levels

    progress = progress or NoProgress()
    reports = {**(reports or {})}
    trained = load_trained(recipe, checkpoint)
    for text in trained.told:
        progress.message(text)
    plans = level_plans(levels, recipe, trained)
    if isinstance(levels, Path):
        reports["isr"] = {"levels": [level.to_json() for level in load_levels(levels)]}
    floats = [trained.at(plan) for plan in plans]
    int8 = quantized_levels(recipe, trained, [quantized] if isinstance(quantized, Path) else quantized, plans)
    if int8:
        reports["quantization"] = {"levels": [_facts(one) for one in int8]}
    wanted = [backend(target.runtime).exports for target in recipe.targets]
    half = half or any("fp16" in forms for forms in wanted)
    inputs = {
        "edgeseg": __version__,
        "libraries": _libraries(),
        "recipe": recipe_digest(recipe),
        "checkpoint_sha256": trained.sha256,
        "weights": weights,
        "half": half,
        "golden_from": "validation split" if data_root else "generated scenes",
        "levels": [str(plan) for plan in plans],
        "reports_sha256": json_digest(reports),
    }
    if not force and (kept := _same_inputs(out, inputs)) is not None:
        return kept, False
    check_place(out)
    data = recipe.data if data_root else _GENERATED
    liked = [forms.get("float", Form.CPU) for forms in wanted] + [Form.GPU] * half
    forms: list[Form] = list(dict.fromkeys((Form.CPU, *liked)))
    images = golden_images(
        open_dataset(data, "val", data_root or Path()), GOLDEN_FRAMES, trained.image.size_hw
    )
    others = [HalfJob(one) for one in floats] if half else [], [Int8Job(one, half) for one in int8]
    with TemporaryDirectory(prefix="edgeseg-export-") as folder:
        made = export_levels(
            [FloatJob(one, forms, weights) for one in floats],
            others,
            recipe.export,
            images,
            Path(folder),
            progress,
        )
        documents: dict[str, Mapping[str, Any]] = {
            "export": inputs,
            "parity": {"levels": made.parity},
            **reports,
        }
        text = dump_recipe(recipe)
        bundle = create_bundle(
            out, recipe_text=text, programs=made.programs, golden=made.golden, reports=documents
        )
    return bundle, True


def level_plans(levels: Path | Sequence[IsrPlan], recipe: Recipe, trained: Trained) -> list[IsrPlan]:
    """The ISR plan of each level; the recipe's where none is named.

    Raises:
        DataError: the plan.json is of another checkpoint or size; RecipeError: a plan is named twice.
    """
    if isinstance(levels, Path):
        found = load_levels(levels, checkpoint_sha256=trained.sha256, size_hw=recipe.export.size_hw)
        levels = [level.plan for level in found]
    plans = list(levels) or [recipe.isr.plan()]
    if twice := sorted({str(plan) for plan in plans if plans.count(plan) > 1}):
        raise RecipeError(f"two levels at one ISR plan: {', '.join(twice)}", hint="name each plan once")
    return plans


def quantized_levels(
    recipe: Recipe, trained: Trained, files: Sequence[Path], plans: Sequence[IsrPlan]
) -> list[Quantized]:
    """The quantized model of each level; empty where the recipe does not quantize. Raises as
    `export_bundle`.
    """
    if recipe.quant is None:
        if files:
            raise RecipeError(
                f"{recipe.name} has quant: null, and {files[0]} is a quantized checkpoint",
                hint="export the recipe that it was quantized with",
            )
        return []
    if not files:
        raise DataError(
            f"{recipe.name} asks for INT8 (its section quant), and there is no quantized checkpoint",
            hint=f"edgeseg quantize {quoted(recipe.name)}; or --set quant=null for a float bundle",
        )
    at_home = [load_quantized(recipe, file) for file in files]
    for file, one in zip(files, at_home, strict=True):
        if one.facts["float_sha256"] != trained.sha256:
            raise DataError(
                f"{file} was quantized from another checkpoint than the one for its float twin",
                hint=(
                    f"edgeseg quantize {quoted(recipe.name)}, or give the float checkpoint that it was made"
                    " from"
                ),
            )
    by_plan = {one.plan: one for one in at_home}
    return [by_plan.get(plan) or load_quantized(recipe, files[0], plan) for plan in plans]


def _libraries() -> dict[str, str]:
    """Versions of what writes programs, as far as it is installed: ONNX Runtime may be there under another
    name.
    """
    found = {}
    for name in ("torch", "onnx", "onnxruntime", "nvidia-modelopt", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _facts(one: Quantized) -> dict[str, Any]:
    """What a bundle says of a level's quantization: what the checkpoint says of itself, and the coverage at
    the level's plan.
    """
    from edgeseg.int8.coverage import coverage

    found = coverage(one.model, one.hints, one.settings, one.image.size_hw)
    home = IsrPlan(*(tuple(one.facts["isr"][part]) for part in ("encoder", "decoder")))
    told = {
        "isr": str(one.plan),
        "calibrated_at": str(home),
        "sha256": one.sha256,
        "coverage": found.to_json(),
    }
    return {**one.facts, **told}


def _same_inputs(out: Path, inputs: Mapping[str, Any]) -> Bundle | None:
    """The bundle at `out`, if it was made from exactly these inputs and is intact."""
    try:
        bundle = open_bundle(out)
        made_from = bundle.report("export")
        bundle.verify()
    except BundleError:
        return None
    return bundle if made_from == inputs else None
