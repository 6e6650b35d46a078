"""INT8 at several ISR levels: one set of scales where every level passes the gate with it, else activation
scales of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.engines.choose.choice import LevelBuild
from edgeseg.pipeline.quantize_engines import Bench, fastest_ms, speedup, timings
from edgeseg.specs import IsrPlan

SHARED, OWN = "shared", "own"
"""The activation scales of a level: the one set that was calibrated at all plans, or those calibrated at its
plan.
"""


@dataclass
class LevelFigures:
    """One level's accuracy, reports of confusion matrices through its engines.

    Attributes:
        miou_shared: INT8, with the one set of scales.
        why: the reason for scales of its own; None where it has none.
    """

    plan: IsrPlan
    float_report: dict[str, Any]
    int8_report: dict[str, Any]
    miou_shared: float
    why: str | None = None

    @property
    def drop(self) -> float:
        """mIoU that INT8 lost against float at the same plan."""
        return float(self.float_report["miou"] - self.int8_report["miou"])


@dataclass(frozen=True)
class Settled:
    """What every level was settled with.

    Attributes:
        files: the checkpoint that all scales were wanted from, then those of levels with activation scales of
            their own.
    """

    bundle: Bundle
    built: list[LevelBuild]
    files: list[Path]
    levels: list[LevelFigures]

    def rows(self) -> list[dict[str, Any]]:
        """By level, as JSON values: plan, mIoU in float and INT8, what was lost, whose scales and why, times
        of the fastest.
        """
        return [
            {
                "level": number,
                "isr": str(level.plan),
                "float_miou": level.float_report["miou"],
                "int8_miou": level.int8_report["miou"],
                "miou_drop": level.drop,
                "scales": SHARED if level.why is None else OWN,
                "miou_shared": level.miou_shared,
                "why": level.why,
                "median_ms": fastest_ms(timings(built)),
                "speedup": speedup(timings(built)),
            }
            for number, (level, built) in enumerate(zip(self.levels, self.built, strict=True))
        ]


def settle(
    bench: Bench,
    plans: Sequence[IsrPlan],
    shared: Path,
    own: Callable[[IsrPlan, str], Path],
    gate: str,
    allowed: float,
) -> Settled:
    """Build all levels on one quantized checkpoint, and again those that lose too much with activation scales
    of their own.

    Args:
        plans: of the bench's levels.
        shared: the checkpoint, its scales meant for every plan.
        own: makes the checkpoint of a level with scales of its own, for a reason; not called where there is
            one level.
        gate, allowed: the recipe's key, and the mIoU that a level may lose in INT8.
    Returns:
        All that was measured; whether each level passes in the end is not judged.
    Raises:
        as `Bench.bundle`.
    """
    bundle, built = bench.bundle([shared])
    levels = []
    for number, plan in enumerate(plans):
        before, after = bench.accuracy(bundle, "float", number), bench.accuracy(bundle, "int8", number)
        levels.append(LevelFigures(plan, before, after, miou_shared=after["miou"]))
    files = [shared]
    failing = (
        {number: level for number, level in enumerate(levels) if level.drop > allowed}
        if len(plans) > 1
        else {}
    )
    for number, level in failing.items():
        level.why = (
            f"with one set of scales for all levels it lost {level.drop:.4f} mIoU; {gate} is {allowed}"
        )
        bench.progress.message(f"level {number} gets activation scales of its own: {level.why}")
        files.append(own(level.plan, level.why))
    if failing:
        bundle, built = bench.bundle(files)
        for number, level in failing.items():
            level.int8_report = bench.accuracy(bundle, "int8", number)
    return Settled(bundle, built, files, levels)
