"""One float checkpoint -> an INT8 program whose accuracy is known per class, its coverage per layer, its
speed against float.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg import __version__
from edgeseg.bundle import Bundle, copy_bundle, open_bundle
from edgeseg.bundle.files import check_place
from edgeseg.checkpoints.models import Trained, load_trained
from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.calib import load_calib
from edgeseg.data.datasets import open_dataset
from edgeseg.devices.integers import integers_here
from edgeseg.engines.open import find_engine
from edgeseg.errors import BuildError, BundleError, GateFailed, RecipeError, Unsupported, require
from edgeseg.files import Target, file_sha256, write_whole
from edgeseg.pipeline.export import level_plans
from edgeseg.pipeline.quantize_engines import Bench, check_drop, check_levels, speedup, timings
from edgeseg.pipeline.quantize_levels import Settled, settle
from edgeseg.pipeline.quantize_model import Int8Checkpoint, calibrated, recalibrated, trained_int8
from edgeseg.pipeline.stages import WAY_OUT, Stage, write_json
from edgeseg.recipe.load import recipe_digest
from edgeseg.recipe.schema import Recipe
from edgeseg.report.quant import draw_quantization
from edgeseg.specs import IsrPlan


@dataclass(frozen=True)
class Quantization:
    """What `quantize_run` left.

    Attributes:
        checkpoint: quantized.safetensors, the best quantized checkpoint.
        bundle: with float and INT8 programs and their engines.
        report: quant.json.
        kept: the stages that had nothing to do.
    """

    checkpoint: Path
    bundle: Bundle
    report: Mapping[str, Any]
    kept: tuple[str, ...]


def quantize_run(
    recipe: Recipe,
    checkpoint: Path,
    data_root: Path,
    run_dir: Path,
    *,
    levels: Path | Sequence[IsrPlan] = (),
    ptq_only: bool = False,
    fresh: bool = False,
    device: str = "auto",
    workers: int = 2,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantization:
    """Calibrate, train with the quantizers in force, export, build engines, and measure what INT8 costs and
    saves.

    A stage whose inputs are unchanged is skipped, a training that was stopped continues. `run_dir` gets
    quantized.safetensors, the bundle NAME.edgeseg, and quant/ with what every stage made, quant.json and
    quant.png. Checkpoint and bundle appear when the gate is passed; earlier ones are untouched until then,
    and the figures of what was refused are in quant/refused.json.

    With several ISR levels, calibration sees the images at every level's plan, and training is at that of
    level 0. Levels share one set of scales where each of them passes the gate with it; one that does not gets
    activation scales of its own, in quantized-PLAN.safetensors.

    Args:
        checkpoint: of the float model.
        levels: ISR plans, from most exact to fastest, or the plan.json of a search; none: one level at the
            recipe's plan.
        ptq_only: calibration only, whatever `quant.qat` says.
        fresh: repeat every stage; an earlier training is kept aside.
        device, workers: of the training.
        threads: of the engines.
    Raises:
        RecipeError: the recipe has no quant section, or it does not fit the model.
        DataError: checkpoint, calibration set, or data are not what they should be.
        GateFailed: coverage below `quant.min_coverage`, or INT8 lost more than `quant.max_miou_drop` at some
            level; the report holds all.
        ParityError: a program does not compute what its model does.
        Unsupported: several processes; MissingDependency: modelopt or matplotlib is not installed.
        KeyboardInterrupt: Ctrl-C; the training's state is kept.
    """
    progress = progress or NoProgress()
    if recipe.quant is None:
        raise RecipeError(
            f"{recipe.name} has quant: null",
            hint=(
                "write its quant section (edgeseg recipe schema describes it), or take another recipe:"
                " edgeseg recipe list"
            ),
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Unsupported("quantization runs in one process", hint="start edgeseg quantize without torchrun")
    for package, extra in (("matplotlib.figure", "report"), ("modelopt", "quant")):
        require(package, extra=extra, purpose="quantize a model")
    load_calib(recipe.quant.calibration.images)  # which must be there before anything is made or put aside
    folder = run_dir / "quant"
    progress.message(integers_here().outlook)
    check_place(run_dir / f"{recipe.name}.edgeseg")
    Target(run_dir / "quantized.safetensors", BuildError)
    if fresh:
        _forget(folder)
    trained = load_trained(recipe, checkpoint)
    for text in trained.told:
        progress.message(text)
    plans = level_plans(levels, recipe, trained)
    trained = trained.at(plans[0])
    if recipe.quant.qat is not None and not ptq_only:
        trained.check_crop(recipe.augment.crop_hw)
    open_dataset(
        recipe.data, "val", data_root
    )  # labels that the last stage cannot measure with are known before the first one
    ptq = calibrated(recipe, recipe.quant, trained, data_root, folder, progress, plans)
    found = {"ptq": ptq}
    if recipe.quant.qat is not None and not ptq_only:
        found["qat"] = trained_int8(
            recipe,
            recipe.quant,
            trained,
            ptq,
            data_root,
            folder,
            device=device,
            workers=workers,
            progress=progress,
        )
    kept = [{"ptq": "calibration", "qat": "training"}[name] for name, one in found.items() if not one.made]
    bench = Bench(recipe, checkpoint, data_root, folder, threads, progress, levels=levels)
    engines = _Engines(bench, trained, plans, run_dir, found)
    if (before := engines.kept()) is not None:
        return Quantization(engines.final, before[0], before[1], (*kept, "engines"))
    bundle, report = engines.make()
    return Quantization(engines.final, bundle, report, tuple(kept))


def _forget(folder: Path) -> None:
    """Make every stage do its work again; what it made before stays until then, a training beside the new
    one.
    """
    for record in (*folder.glob("*.json"), folder / "qat" / "begun.json"):
        record.unlink(missing_ok=True)


class _Engines:
    """The last stage: engines, their figures, the gate, and what is delivered."""

    def __init__(
        self,
        bench: Bench,
        trained: Trained,
        plans: Sequence[IsrPlan],
        run_dir: Path,
        found: Mapping[str, Int8Checkpoint],
    ) -> None:
        self.bench, self.trained, self.plans, self.found = bench, trained, plans, found
        self.recipe, self.progress = bench.recipe, bench.progress
        self.run_dir, self.folder = run_dir, run_dir / "quant"
        self.final, self.bundle_path = (
            run_dir / "quantized.safetensors",
            run_dir / f"{self.recipe.name}.edgeseg",
        )
        self.best = "qat" if "qat" in found and found["qat"].report["best_step"] else "ptq"
        if "qat" in found and self.best == "ptq":
            self.progress.message(
                "no step of training was better than calibration alone: the calibrated checkpoint is the best"
            )
        inputs = {
            "edgeseg": __version__,
            "recipe": recipe_digest(self.recipe),
            "float_sha256": trained.sha256,
            "quantized_sha256": {name: one.sha256 for name, one in found.items()},
            "levels": (
                file_sha256(bench.levels) if isinstance(bench.levels, Path) else [str(plan) for plan in plans]
            ),
            "threads": bench.threads,
        }
        self.stage = Stage(self.folder / "engines.json", inputs)

    def kept(self) -> tuple[Bundle, dict[str, Any]] | None:
        """Bundle and report of an earlier run from the same inputs, if all is there and was made for this
        device.
        """
        report = self.stage.kept()
        if report is None or not all((self.run_dir / name).is_file() for name in report["checkpoints"]):
            return None
        try:
            bundle = open_bundle(self.bundle_path)
            bundle.verify()
            for level in range(len(self.plans)):
                find_engine(bundle, level, precision="float")
                find_engine(bundle, level, precision="int8")
        except BundleError as error:
            self.progress.message(f"engines are made anew: {error}")
            return None
        return bundle, report

    def make(self) -> tuple[Bundle, dict[str, Any]]:
        """Export, build, measure, gate; then deliver. Raises GateFailed with the report, and delivers
        nothing.
        """
        with TemporaryDirectory(prefix=".engines-", dir=self.folder) as scratch:
            bench, best = replace(self.bench, folder=Path(scratch)), self.found[self.best].path
            settled = settle(
                bench, self.plans, best, partial(self._own_scales, best, Path(scratch)), *self._gate
            )
            accuracy = {"float": settled.levels[0].float_report, self.best: settled.levels[0].int8_report}
            if self.best == "qat":
                runtime = accuracy["qat"][
                    "runtime"
                ]  # one for both, or the difference would not be that of the training
                calibrated_only, _ = replace(bench, runtimes=(runtime,)).bundle(
                    [self.found["ptq"].path], self.plans[:1]
                )
                ptq = bench.accuracy(calibrated_only, "int8", runtime=runtime)
                accuracy = {"float": accuracy["float"], "ptq": ptq, "qat": accuracy["qat"]}
            report = self._report(accuracy, settled)
            refused = self.folder / "refused.json"
            try:
                check_drop(self.recipe, accuracy, self.best, report)
                check_levels(report["levels"], *self._gate, report)
            except GateFailed:
                write_json(refused, report)
                raise
            picture = draw_quantization(report)
            delivered = copy_bundle(settled.bundle, self.bundle_path)
            self._deliver(settled)
        write_json(self.folder / "quant.json", report)
        write_whole(self.folder / "quant.png", picture, BuildError, WAY_OUT)
        self.stage.done(report)
        refused.unlink(missing_ok=True)
        return delivered, report

    @property
    def _gate(self) -> tuple[str, float]:
        return self.recipe.miou_gate("int8")

    def _own_scales(self, source: Path, folder: Path, plan: IsrPlan, why: str) -> Path:
        assert self.recipe.quant is not None
        return recalibrated(
            self.recipe, self.recipe.quant, self.trained, source, plan, why, self.bench.data_root, folder
        )

    def _deliver(self, settled: Settled) -> None:
        """The checkpoints, and none of a level's own scales that an earlier run left."""
        for stale in self.run_dir.glob(f"{self.final.stem}-*.safetensors"):
            stale.unlink()
        for name, file in zip(self._names(settled), settled.files, strict=True):
            write_whole(self.run_dir / name, file.read_bytes(), BuildError, WAY_OUT)

    def _names(self, settled: Settled) -> list[str]:
        own = [
            f"{self.final.stem}-{level.plan}.safetensors" for level in settled.levels if level.why is not None
        ]
        return [self.final.name, *own]

    def _report(self, accuracy: dict[str, Any], settled: Settled) -> dict[str, Any]:
        rows = timings(settled.built[0])
        quant = self.recipe.quant
        assert quant is not None
        return {
            "recipe": self.recipe.name,
            "arch": self.trained.arch,
            "isr": str(self.trained.model.isr_plan),
            "size_hw": list(self.trained.image.size_hw),
            "mask_stride": self.recipe.export.mask_stride,
            "float_sha256": self.trained.sha256,
            "quantized_sha256": self.found[self.best].sha256,
            "best": self.best,
            "quant": quant.model_dump(mode="json"),
            **self.found["ptq"].report,
            "qat": self.found["qat"].report if "qat" in self.found else None,
            "accuracy": accuracy,
            "miou_drop": accuracy["float"]["miou"] - accuracy[self.best]["miou"],
            "levels": settled.rows(),
            "checkpoints": self._names(settled),
            "engines": rows,
            "default_engine": settled.built[0].engine.kind,
            "speedup": speedup(rows),
        }
