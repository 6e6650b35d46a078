"""Float checkpoint -> quantized checkpoints: calibration, its coverage gate, and quantization-aware
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.checkpoints.int8_file import prepare, save_quantized
from edgeseg.checkpoints.models import Trained, calibration_tensors, load_quantized
from edgeseg.contracts import Progress
from edgeseg.data.calib import CalibSet, load_calib
from edgeseg.data.calib_images import open_calib
from edgeseg.files import file_sha256, json_digest
from edgeseg.int8.calibrate import CalibrationReport, observe, set_ranges
from edgeseg.int8.coverage import Coverage, Layer, coverage
from edgeseg.int8.scales import load_scales, scales
from edgeseg.journal import read_rows
from edgeseg.pipeline.stages import Stage
from edgeseg.recipe.schema import Quant, Recipe
from edgeseg.rewrite.form import deploy
from edgeseg.specs import Form, IsrPlan
from edgeseg.training.loop import set_aside
from edgeseg.training.qat import finetune_int8, schedule

_TASK = "calibrate"


@dataclass(frozen=True)
class Int8Checkpoint:
    """A quantized checkpoint, and how it came about.

    Attributes:
        made: False where an earlier one was kept.
        report: of its calibration or training, as JSON values.
    """

    path: Path
    sha256: str
    made: bool
    report: Mapping[str, Any]


@dataclass(frozen=True)
class _Maker:
    """What all quantized checkpoints of one run have in common."""

    recipe: Recipe
    quant: Quant
    trained: Trained

    def save(
        self,
        path: Path,
        model: Any,
        calibration: Mapping[str, Any],
        covered: Mapping[str, Any],
        qat: Mapping[str, Any] | None,
    ) -> None:
        """At the plan in force of `trained`."""
        save_quantized(
            path,
            model,
            arch=self.trained.arch,
            options=self.recipe.model.options,
            labels=self.trained.labels,
            plan=self.trained.model.isr_plan,
            size_hw=self.trained.image.size_hw,
            settings=self.quant,
            float_sha256=self.trained.sha256,
            calibration=calibration,
            coverage=covered,
            qat=qat,
        )


def calibrated(
    recipe: Recipe,
    quant: Quant,
    trained: Trained,
    data_root: Path,
    folder: Path,
    progress: Progress,
    levels: Sequence[IsrPlan] = (),
) -> Int8Checkpoint:
    """Calibrate a float model: `ptq.safetensors`, made anew only where model, images or settings changed.

    `report` is {"calibration", "coverage"}; coverage is that at the plan in force of `trained`.

    Args:
        levels: ISR plans that the one set of scales is for, the plan in force first; default: that plan
            alone. Each quantizer then sees every image at every plan.
    Raises:
        GateFailed: less than `quant.min_coverage` of the multiply-adds would be in INT8; nothing is written.
        DataError: the calibration set, an image of it, or an activation is not what it should be.
        BuildError, RecipeError, MissingDependency: quantizers cannot be placed as the recipe says.
    """
    path, calib_set = folder / "ptq.safetensors", load_calib(quant.calibration.images)
    models = [trained.at(plan) for plan in levels] or [trained]
    plans = [one.model.isr_plan for one in models]
    placement = quant.model_dump(mode="json", exclude={"qat", "min_coverage", "max_miou_drop"})
    stage = Stage(
        folder / "ptq.json",
        {
            "edgeseg": __version__,
            "float_sha256": trained.sha256,
            "calib_sha256": calib_set.sha256,
            "isr": [str(plan) for plan in plans],
            "size_hw": list(trained.image.size_hw),
            "quant": placement,
        },
    )
    if (kept := stage.kept()) is not None:
        _coverage_of(kept["coverage"]).check(quant)
        return Int8Checkpoint(path, file_sha256(path), False, kept)
    images = open_calib(calib_set, recipe.data, data_root)
    for text in images.warnings:
        progress.message(f"warning: {text}")
    seen, prepared, covered = None, [prepare(one.model, one.image, quant) for one in models], []
    for one in prepared:
        covered.append(coverage(one.model, one.hints, quant, one.image.size_hw))
        covered[-1].check(quant)
    progress.start(_TASK, len(images) * len(plans))
    for one in prepared:
        tensors = calibration_tensors(images, one.image)
        seen = observe(one.model, tensors, lambda done: progress.advance(_TASK), onto=seen)
    progress.finish(_TASK)
    assert seen is not None
    found = set_ranges(prepared[0].model, seen, quant)
    for note in found.notes:
        progress.message(f"warning: {note}")
    calibration = _calibration(calib_set, plans, found)
    _Maker(recipe, quant, models[0]).save(path, prepared[0].model, calibration, covered[0].to_json(), None)
    report = {"calibration": calibration, "coverage": covered[0].to_json()}
    stage.done(report, [path])
    return Int8Checkpoint(path, file_sha256(path), True, report)


def recalibrated(
    recipe: Recipe,
    quant: Quant,
    trained: Trained,
    source: Path,
    plan: IsrPlan,
    why: str,
    data_root: Path,
    folder: Path,
) -> Path:
    """A quantized checkpoint's twin for one ISR level, in `folder`: its weights and their scales, but the
    level's own activation scales, calibrated at its plan.

    Args:
        trained: the float model, for the facts of the file.
        why: goes into the file; the reason why the level does not live on the scales of `source`.
    Raises:
        as `calibrated`.
    """
    calib_set = load_calib(quant.calibration.images)
    images = open_calib(calib_set, recipe.data, data_root)
    level = load_quantized(recipe, source, plan)
    shared = scales(level.model)
    found = set_ranges(level.model, observe(level.model, calibration_tensors(images, level.image)), quant)
    load_scales(
        level.model,
        scales(level.model) | {name: one for name, one in shared.items() if name.endswith(".weight_scale")},
    )
    covered = coverage(level.model, level.hints, quant, level.image.size_hw).to_json()
    path = folder / f"{source.stem}-{plan}.safetensors"
    calibration = {**_calibration(calib_set, [plan], found), "why": why}
    _Maker(recipe, quant, trained.at(plan)).save(path, level.model, calibration, covered, level.facts["qat"])
    return path


def _calibration(calib_set: CalibSet, plans: Sequence[IsrPlan], found: CalibrationReport) -> dict[str, Any]:
    """What a checkpoint says of where its activation scales come from."""
    seen_at = [str(plan) for plan in plans]
    return {"set": calib_set.name, "set_sha256": calib_set.sha256, "isr": seen_at, **found.to_json()}


def _coverage_of(document: Mapping[str, Any]) -> Coverage:
    layers = tuple(Layer(**layer) for layer in document["layers"])
    depthwise = document.get("depthwise_share", 0.0)  # absent where the checkpoint is older than this figure
    return Coverage(document["share"], document["macs"], layers, depthwise)


def trained_int8(
    recipe: Recipe,
    quant: Quant,
    trained: Trained,
    start: Int8Checkpoint,
    data_root: Path,
    folder: Path,
    *,
    device: str,
    workers: int,
    progress: Progress,
) -> Int8Checkpoint:
    """Train a calibrated model on, in `folder`/qat; a stopped training continues, a finished one is kept.

    `report` is {"steps", "best_step", "miou_ptq", "miou_best", "miou_trained", "seconds"}: mIoU of the torch
    model with its quantizers in force, before training, of the checkpoint, and the best of training itself.
    At `best_step` 0 no step was better than calibration alone, and the checkpoint is the calibrated one.

    Raises:
        as `finetune_int8`.
    """
    assert quant.qat is not None
    run_dir = folder / "qat"
    inputs = {
        "start": start.sha256,
        "qat": quant.qat.model_dump(mode="json"),
        "train": schedule(recipe.train, quant.qat).model_dump(mode="json"),
        **{section: recipe.model_dump(mode="json")[section] for section in ("data", "augment", "export")},
    }
    best = run_dir / "best.safetensors"
    stage = Stage(folder / "qat.json", inputs)
    if (kept := stage.kept()) is not None:
        return Int8Checkpoint(best, file_sha256(best), False, kept)
    begun = Stage(run_dir / "begun.json", inputs)
    if run_dir.exists() and begun.kept() is None:
        progress.message(f"training starts anew: the earlier training is kept aside as {set_aside(run_dir)}")
    begun.done({})
    maker = _Maker(recipe, quant, trained)
    model = load_quantized(recipe, start.path).model
    teacher = deploy(trained.model, trained.image, Form.QDQ)

    def save(path: Path, facts: dict[str, Any]) -> None:
        qat = (
            {**quant.qat.model_dump(mode="json"), **facts}
            if quant.qat is not None and facts["step"]
            else None
        )
        maker.save(path, model, start.report["calibration"], start.report["coverage"], qat)

    result = finetune_int8(
        recipe,
        model,
        teacher.model,
        teacher.image,
        data_root,
        run_dir,
        start=json_digest(inputs),
        save=save,
        device=device,
        workers=workers,
        progress=progress,
    )
    curve = read_rows(run_dir / "metrics.jsonl")
    mious = {row["step"]: row["miou"] for row in curve if "miou" in row}
    report = {
        "steps": result.step,
        "best_step": result.best_step,
        "miou_ptq": mious[0],
        "miou_best": result.miou,
        "miou_trained": max(miou for step, miou in mious.items() if step),
        "seconds": round(result.seconds, 1),
    }
    stage.done(report, [best])
    return Int8Checkpoint(best, file_sha256(best), True, report)
