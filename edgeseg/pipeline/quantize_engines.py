"""Quantized checkpoint -> bundle with its float twin, engines, and what each loses: measured through the
engines themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.bundle.manifest import CandidateEntry
from edgeseg.contracts import Progress
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.choose.candidates import REFERENCE
from edgeseg.engines.choose.choice import LevelBuild
from edgeseg.engines.open import find_engine, open_engine
from edgeseg.errors import GateFailed
from edgeseg.pipeline.build import build_bundle
from edgeseg.pipeline.evaluate import validation_split
from edgeseg.pipeline.export import export_bundle
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import IsrPlan, Precision


@dataclass(frozen=True)
class Bench:
    """Where engines are made and measured: the same data and options for all that are compared.

    Attributes:
        folder: for the bundles.
        runtimes: consider these only, and ONNX Runtime; empty: every one that is installed.
        levels: the plan.json of a search, or ISR plans, as `export_bundle` takes them.
    """

    recipe: Recipe
    checkpoint: Path
    data_root: Path
    folder: Path
    threads: int | None
    progress: Progress
    runtimes: tuple[str, ...] = ()
    levels: Path | Sequence[IsrPlan] = ()

    def bundle(
        self, quantized: Sequence[Path], levels: Path | Sequence[IsrPlan] | None = None
    ) -> tuple[Bundle, list[LevelBuild]]:
        """A bundle of the float checkpoint and a quantized one, or several, with this device's engines; in
        this bench's folder.

        Args:
            levels: instead of this bench's.
        Returns:
            The bundle, and what was built for each level.
        Raises:
            ParityError: a program does not compute what its model does.
            GateFailed: at some level no INT8 engine agrees with its model; the report says why for each.
        """
        path = self.folder / f"{len(quantized)}-{quantized[0].stem}" / f"{self.recipe.name}.edgeseg"
        bundle, _ = export_bundle(
            self.recipe,
            self.checkpoint,
            path,
            quantized=quantized,
            levels=self.levels if levels is None else levels,
            data_root=self.data_root,
            progress=self.progress,
        )
        built = build_bundle(bundle, runtimes=self.runtimes, threads=self.threads, progress=self.progress)
        for level, one in enumerate(built):
            _check_built(level, one)
        return bundle, built

    def accuracy(
        self, bundle: Bundle, precision: Precision, level: int = 0, runtime: str | None = None
    ) -> dict[str, Any]:
        """An engine on the whole validation split, its name and the report of a confusion matrix: of INT8 the
        fastest, or that of `runtime`; of float the reference, which computes in float32 throughout.
        """
        labels = bundle.any_program(0).labels
        dataset, indices = validation_split(self.recipe, self.data_root, labels, None)
        engine = find_engine(bundle, level, REFERENCE if precision == "float" else runtime, precision)
        with open_engine(bundle, engine, self.threads) as session:
            confusion = evaluate(session.segment, dataset, indices, self.progress)
        named = {"engine": f"{engine.runtime} {engine.kind}", "runtime": engine.runtime}
        return {**named, "images": len(indices), **confusion.report(labels.names)}


def _check_built(level: int, built: LevelBuild) -> None:
    """Raise GateFailed where no INT8 engine passed at a level."""
    candidates = [one for one in built.choice.candidates if one.precision == "int8"]
    if not any(one.verdict in ("default", "passed") for one in candidates):
        told = "; ".join(f"{one.runtime}: {one.reason}" for one in candidates)
        raise GateFailed(
            f"no INT8 engine passed at level {level}: {told or 'no runtime here takes INT8 programs'}",
            hint=(
                "edgeseg doctor says which runtimes are here; edgeseg sensitivity RECIPE finds the layers"
                " that harm most"
            ),
            report={"candidates": [one.model_dump(mode="json") for one in built.choice.candidates]},
        )


def timings(built: LevelBuild) -> list[dict[str, Any]]:
    """The engines that passed, the default first: runtime, kind, time of one image, speed-up over the first
    candidate, size.
    """
    passed = sorted(
        (one for one in built.choice.candidates if one.verdict in ("default", "passed")),
        key=lambda one: one.verdict != "default",
    )
    return [_row(one) for one in passed]


def _row(one: CandidateEntry) -> dict[str, Any]:
    figures = one.measurements
    return {
        "runtime": one.runtime,
        "kind": one.kind,
        "precision": one.precision,
        "default": one.verdict == "default",
        **{
            name: figures.get(name)
            for name in ("median_ms", "p10_ms", "p90_ms", "speedup", "bytes", "mask_agreement")
        },
    }


def fastest_ms(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The time of the fastest INT8 engine ("int8") and of the fastest other ("float"), of one run in which
    all took turns; None where there is none."""
    timed = [
        ("int8" if row["precision"] == "int8" else "float", row["median_ms"])
        for row in rows
        if row["median_ms"]
    ]
    return {
        wanted: min((ms for name, ms in timed if name == wanted), default=None)
        for wanted in ("float", "int8")
    }


def speedup(rows: list[dict[str, Any]]) -> float | None:
    """Time of the fastest engine that is not INT8 over that of the fastest INT8 one."""
    fastest = fastest_ms(rows)
    return fastest["float"] / fastest["int8"] if fastest["float"] and fastest["int8"] else None


def check_drop(
    recipe: Recipe, accuracy: Mapping[str, Mapping[str, Any]], best: str, report: Mapping[str, Any]
) -> None:
    """Raise GateFailed where the best INT8 engine lost more mIoU against the float one than the recipe
    allows.
    """
    drop = accuracy["float"]["miou"] - accuracy[best]["miou"]
    gate, allowed = recipe.miou_gate("int8")
    if drop > allowed:
        worst = sorted(
            (accuracy[best]["classes"][name]["iou"] - row["iou"], name)
            for name, row in accuracy["float"]["classes"].items()
        )[:3]
        told = ", ".join(f"{name} {100 * lost:+.1f}" for lost, name in worst)
        raise GateFailed(
            f"the {accuracy[best]['engine']} engine lost {drop:.4f} mIoU; {gate} is {allowed} (most: {told}"
            " points)",
            hint=(
                "edgeseg sensitivity RECIPE finds the layers that harm most; or more quant.qat.steps, or"
                " another method"
            ),
            report=report,
        )


def check_levels(
    rows: Sequence[Mapping[str, Any]], gate: str, allowed: float, report: Mapping[str, Any]
) -> None:
    """Raise GateFailed where a level lost more mIoU in INT8 than allowed, with whatever scales it ended."""
    for row in rows:
        if row["miou_drop"] > allowed:
            raise GateFailed(
                f"level {row['level']} (ISR {row['isr']}) lost {row['miou_drop']:.4f} mIoU in INT8, with"
                f" {row['scales']} scales; {gate} is {allowed}",
                hint="leave this level out; or edgeseg sensitivity RECIPE finds the layers that harm most",
                report=report,
            )
