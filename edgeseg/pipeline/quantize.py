"""One float checkpoint -> an INT8 program whose accuracy is known per class, its coverage per layer, its speed against float."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg import __version__
from edgeseg.bundle import Bundle, copy_bundle, open_bundle
from edgeseg.contracts import NoProgress, Progress
from edgeseg.errors import BundleError, GateFailed, RecipeError, Unsupported, require
from edgeseg.pipeline.quantize_engines import Bench, check_drop, speedup, timings
from edgeseg.pipeline.quantize_model import Int8Checkpoint, calibrated, trained_int8
from edgeseg.pipeline.stages import Stage, write_json, write_whole
from edgeseg.recipe.load import recipe_digest
from edgeseg.recipe.schema import Recipe
from edgeseg.report.quant import draw_quantization
from edgeseg.trained import Trained, load_trained


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
    ptq_only: bool = False,
    fresh: bool = False,
    device: str = "auto",
    workers: int = 2,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantization:
    """Calibrate, train with the quantizers in force, export, build engines, and measure what INT8 costs and saves.

    A stage whose inputs are unchanged is skipped, a training that was stopped continues. `run_dir` gets quantized.safetensors,
    the bundle NAME.edgeseg, and quant/ with what every stage made, quant.json and quant.png. Checkpoint and bundle appear when
    the gate is passed; earlier ones are untouched until then, and the figures of what was refused are in quant/refused.json.

    Args:
        checkpoint: of the float model.
        ptq_only: calibration only, whatever `quant.qat` says.
        fresh: repeat every stage; an earlier training is kept aside.
        device, workers: of the training.
        threads: of the engines.
    Raises:
        RecipeError: the recipe has no quant section, or it does not fit the model.
        DataError: checkpoint, calibration set, or data are not what they should be.
        GateFailed: coverage below `quant.min_coverage`, or INT8 lost more than `quant.max_miou_drop`; the report holds all.
        ParityError: a program does not compute what its model does.
        Unsupported: several processes; MissingDependency: modelopt or matplotlib is not installed.
        KeyboardInterrupt: Ctrl-C; the training's state is kept.
    """
    progress = progress or NoProgress()
    if recipe.quant is None:
        raise RecipeError(
            f"{recipe.name} has quant: null",
            hint="write its quant section (edgeseg recipe schema describes it), or take another recipe: edgeseg recipe list",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Unsupported("quantization runs in one process", hint="start edgeseg quantize without torchrun")
    for package, extra in (("matplotlib.figure", "report"), ("modelopt", "quant")):
        require(package, extra=extra, purpose="quantize a model")
    folder = run_dir / "quant"
    if fresh:
        _forget(folder)
    trained = load_trained(recipe, checkpoint)
    ptq = calibrated(recipe, recipe.quant, trained, data_root, folder, progress)
    found = {"ptq": ptq}
    if recipe.quant.qat is not None and not ptq_only:
        found["qat"] = trained_int8(
            recipe, recipe.quant, trained, ptq, data_root, folder, device=device, workers=workers, progress=progress
        )
    kept = [{"ptq": "calibration", "qat": "training"}[name] for name, one in found.items() if not one.made]
    engines = _Engines(recipe, checkpoint, trained, data_root, run_dir, threads, found, progress)
    if (before := engines.kept()) is not None:
        return Quantization(engines.final, before[0], before[1], (*kept, "engines"))
    bundle, report = engines.make()
    return Quantization(engines.final, bundle, report, tuple(kept))


def _forget(folder: Path) -> None:
    """Make every stage do its work again; what it made before stays until then, a training beside the new one."""
    for record in (*folder.glob("*.json"), folder / "qat" / "begun.json"):
        record.unlink(missing_ok=True)


class _Engines:
    """The last stage: engines, their figures, the gate, and what is delivered."""

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Path,
        trained: Trained,
        data_root: Path,
        run_dir: Path,
        threads: int | None,
        found: Mapping[str, Int8Checkpoint],
        progress: Progress,
    ) -> None:
        self.recipe, self.checkpoint, self.trained, self.data_root = recipe, checkpoint, trained, data_root
        self.threads, self.found, self.progress = threads, found, progress
        self.folder = run_dir / "quant"
        self.final, self.bundle_path = run_dir / "quantized.safetensors", run_dir / f"{recipe.name}.edgeseg"
        self.best = "qat" if "qat" in found and found["qat"].report["best_step"] else "ptq"
        if "qat" in found and self.best == "ptq":
            progress.message("no step of training was better than calibration alone: the calibrated checkpoint is the best")
        inputs = {
            "edgeseg": __version__,
            "recipe": recipe_digest(recipe),
            "float_sha256": trained.sha256,
            "quantized_sha256": {name: one.sha256 for name, one in found.items()},
            "threads": threads,
        }
        self.stage = Stage(self.folder / "engines.json", inputs)

    def kept(self) -> tuple[Bundle, dict[str, Any]] | None:
        """Bundle and report of an earlier run from the same inputs, if all is there and was made for this device."""
        report = self.stage.kept()
        if report is None or not self.final.is_file():
            return None
        try:
            bundle = open_bundle(self.bundle_path)
            bundle.verify()
            for precision in ("float", "int8"):
                bundle.find_engine(0, precision=precision)  # type: ignore[arg-type]
        except BundleError as error:
            self.progress.message(f"engines are made anew: {error}")
            return None
        return bundle, report

    def make(self) -> tuple[Bundle, dict[str, Any]]:
        """Export, build, measure, gate; then deliver. Raises GateFailed with the report, and delivers nothing."""
        with TemporaryDirectory(prefix=".engines-", dir=self.folder) as scratch:
            bench = Bench(self.recipe, self.checkpoint, self.data_root, Path(scratch), self.threads, self.progress)
            bundle, built = bench.bundle(self.found[self.best].path)
            accuracy = {"float": bench.accuracy(bundle, "float"), self.best: bench.accuracy(bundle, "int8")}
            if self.best == "qat":
                calibrated_only, _ = bench.bundle(self.found["ptq"].path)
                accuracy = {"float": accuracy["float"], "ptq": bench.accuracy(calibrated_only, "int8"), "qat": accuracy["qat"]}
            report = self._report(accuracy, timings(built), built.engine.kind)
            refused = self.folder / "refused.json"
            try:
                check_drop(self.recipe, accuracy, self.best, report)
            except GateFailed:
                write_json(refused, report)
                raise
            picture = draw_quantization(report)
            delivered = copy_bundle(bundle, self.bundle_path)
        write_whole(self.final, self.found[self.best].path.read_bytes())
        write_json(self.folder / "quant.json", report)
        write_whole(self.folder / "quant.png", picture)
        self.stage.done(report)
        refused.unlink(missing_ok=True)
        return delivered, report

    def _report(self, accuracy: dict[str, Any], rows: list[dict[str, Any]], default: str) -> dict[str, Any]:
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
            "engines": rows,
            "default_engine": default,
            "speedup": speedup(rows),
        }
