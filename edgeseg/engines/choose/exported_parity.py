"""The rungs of the parity ladder that were climbed when a bundle was made: from the torch model to its
programs.

They need torch, which a device need not have, so a bundle carries what they gave as its report `parity`. An
engine is built of a program that stood them, and of no other; what is left of the ladder, the engine's own
masks and mIoU, `edgeseg build` climbs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.errors import GateFailed
from edgeseg.specs import Precision

REPORT = "parity"


@dataclass(frozen=True, slots=True)
class Climbed:
    """A rung.

    Attributes:
        name: "P1", "P2"; of a float program "graph", "optimised", "mask".
        figures: what was measured, by name.
        passed: None where it was skipped.
    """

    name: str
    figures: Mapping[str, float]
    passed: bool | None

    def __str__(self) -> str:
        told = " ".join(
            f"{name} {value:.4g}" if name != "value" else f"{value:.4g}"
            for name, value in self.figures.items()
        )
        return f"{self.name} {told or ('skipped' if self.passed is None else 'without figures')}"


def climbed(bundle: Bundle, level: int, precision: Precision) -> list[Climbed]:
    """The rungs of a program, all its forms together; [] where nobody climbed any. Raises IntegrityError."""
    if REPORT not in bundle.manifest.reports:
        return []
    document = bundle.report(REPORT)
    levels = document.get("levels", [document])  # of one level alone, before bundles had several
    found: dict[str, Any] = levels[level] if level < len(levels) else {}
    if precision != "float":
        found = found.get(precision, {})
    rungs = found.get("rungs", {})
    if isinstance(rungs, Mapping):
        return [Climbed(name, {"value": rung["value"]}, rung["passed"]) for name, rung in rungs.items()]
    return [Climbed(rung["rung"], rung["figures"], rung["passed"]) for rung in rungs]


def check(bundle: Bundle, level: int, precision: Precision) -> None:
    """Raise GateFailed where a program broke a rung: it does not say what its model said, and no engine of it
    can.
    """
    if broken := [rung for rung in climbed(bundle, level, precision) if rung.passed is False]:
        raise GateFailed(
            f"the {precision} program of level {level} broke the parity ladder at"
            f" {'; '.join(map(str, broken))}",
            hint=(
                "nothing is built of it; edgeseg parity BUNDLE shows the ladder, edgeseg export RECIPE makes"
                " the program anew"
            ),
            report={},
        )
