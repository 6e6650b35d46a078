"""Quantized checkpoint -> bundle with its float twin, engines, and what each loses: measured through the engines themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.contracts import Progress
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.choose import REFERENCE, LevelBuild
from edgeseg.errors import GateFailed
from edgeseg.manifest import CandidateEntry
from edgeseg.pipeline.build import build_bundle
from edgeseg.pipeline.evaluate import validation_split
from edgeseg.pipeline.export import export_bundle
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import Precision


@dataclass(frozen=True)
class Bench:
    """Where engines are made and measured: the same data and options for all that are compared.

    Attributes:
        folder: for the bundles.
        runtimes: consider these only, and ONNX Runtime; empty: every one that is installed.
    """

    recipe: Recipe
    checkpoint: Path
    data_root: Path
    folder: Path
    threads: int | None
    progress: Progress
    runtimes: tuple[str, ...] = ()

    def bundle(self, quantized: Path) -> tuple[Bundle, LevelBuild]:
        """A bundle of the float checkpoint and a quantized one, with this device's engines; in this bench's folder.

        Raises:
            ParityError: a program does not compute what its model does.
            GateFailed: no INT8 engine agrees with its model; the report says why for each.
        """
        path = self.folder / quantized.stem / f"{self.recipe.name}.edgeseg"
        bundle, _ = export_bundle(
            self.recipe, self.checkpoint, path, quantized=quantized, data_root=self.data_root, progress=self.progress
        )
        (built,) = build_bundle(bundle, runtimes=self.runtimes, threads=self.threads, progress=self.progress)
        if not any(one.precision == "int8" and one.verdict in ("default", "passed") for one in built.choice.candidates):
            told = "; ".join(f"{one.runtime}: {one.reason}" for one in built.choice.candidates if one.precision == "int8")
            raise GateFailed(
                f"no INT8 engine passed: {told or 'no runtime here takes INT8 programs'}",
                hint="edgeseg doctor says which runtimes are here; edgeseg sensitivity RECIPE finds the layers that harm most",
                report={"candidates": [one.model_dump(mode="json") for one in built.choice.candidates]},
            )
        return bundle, built

    def accuracy(self, bundle: Bundle, precision: Precision) -> dict[str, Any]:
        """An engine on the whole validation split, its name and the report of a confusion matrix: of INT8 the fastest, of float
        the reference, which computes in float32 throughout.
        """
        labels = bundle.any_program(0).labels
        dataset, indices = validation_split(self.recipe, self.data_root, labels, None)
        engine = bundle.find_engine(0, REFERENCE if precision == "float" else None, precision)
        with bundle.open_engine(engine, self.threads) as session:
            confusion = evaluate(session.segment, dataset, indices, self.progress)
        return {"engine": f"{engine.runtime} {engine.kind}", "images": len(indices), **confusion.report(labels.names)}


def timings(built: LevelBuild) -> list[dict[str, Any]]:
    """The engines that passed, the default first: runtime, kind, time of one image, speed-up over the first candidate, size."""
    passed = sorted(
        (one for one in built.choice.candidates if one.verdict in ("default", "passed")), key=lambda one: one.verdict != "default"
    )
    return [_row(one) for one in passed]


def _row(one: CandidateEntry) -> dict[str, Any]:
    figures = one.measurements
    return {
        "runtime": one.runtime,
        "kind": one.kind,
        "precision": one.precision,
        "default": one.verdict == "default",
        **{name: figures.get(name) for name in ("median_ms", "p10_ms", "p90_ms", "speedup", "bytes", "mask_agreement")},
    }


def speedup(rows: list[dict[str, Any]]) -> float | None:
    """Time of the fastest engine that is not INT8 over that of the fastest INT8 one, of one run in which all took turns."""
    timed = [(row["precision"] == "int8", row["median_ms"]) for row in rows if row["median_ms"]]
    others, int8 = ([ms for is_int8, ms in timed if is_int8 is wanted] for wanted in (False, True))
    return min(others) / min(int8) if others and int8 else None


def check_drop(recipe: Recipe, accuracy: Mapping[str, Mapping[str, Any]], best: str, report: Mapping[str, Any]) -> None:
    """Raise GateFailed where the best INT8 engine lost more mIoU against the float one than the recipe allows."""
    drop = accuracy["float"]["miou"] - accuracy[best]["miou"]
    gate, allowed = recipe.miou_gate("int8")
    if drop > allowed:
        worst = sorted(
            (accuracy[best]["classes"][name]["iou"] - row["iou"], name) for name, row in accuracy["float"]["classes"].items()
        )[:3]
        told = ", ".join(f"{name} {100 * lost:+.1f}" for lost, name in worst)
        raise GateFailed(
            f"the {accuracy[best]['engine']} engine lost {drop:.4f} mIoU; {gate} is {allowed} (most: {told} points)",
            hint="edgeseg sensitivity RECIPE finds the layers that harm most; or more quant.qat.steps, or another method",
            report=report,
        )
