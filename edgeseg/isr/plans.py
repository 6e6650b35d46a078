"""Plans: which there are for a model at one image size, which have names, and the file of chosen levels. No
torch here.

A multiplier is legal where its pooling window divides the map. Anything else is refused: pooling never drops
rows.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import DataError, RecipeError
from edgeseg.specs import IsrPlan, Precision

Choices = tuple[tuple[int, ...], ...]
"""Legal multipliers of each stage, ascending from 1."""

PAPER_PLANS: tuple[IsrPlan, ...] = (
    IsrPlan((1, 1, 1, 1), (2, 2, 2)),
    IsrPlan((1, 1, 1, 1), (4, 4, 4)),
    IsrPlan((2, 1, 1, 1), (1, 1, 1)),
    IsrPlan((2, 1, 1, 1), (2, 2, 2)),
    IsrPlan((2, 2, 1, 1), (2, 2, 2)),
    IsrPlan((2, 2, 2, 1), (2, 2, 2)),
    IsrPlan((2, 2, 2, 2), (2, 2, 2)),
    IsrPlan((4, 4, 4, 4), (4, 4, 4)),
)
"""The settings that EDAFormer's authors report, as multipliers on its training ratios 8, 4, 2, 1 and 4, 2, 1.

2,2,1,1-2,2,2 is the one they call optimal; 2,2,2,2-2,2,2 is the one they fine-tune for.
Source: EDAFormer (arXiv 2407.17261), ablation of reduction ratios.
"""


@dataclass(frozen=True, slots=True)
class PlanSpace:
    """Every legal plan of a model at one image size.

    Attributes:
        encoder, decoder: legal multipliers by stage, fine to coarse; empty for a part without ISR.
        size_hw: the image size, for messages.
    """

    encoder: Choices
    decoder: Choices
    size_hw: tuple[int, int]

    @property
    def choices(self) -> Choices:
        return (*self.encoder, *self.decoder)

    @property
    def base(self) -> IsrPlan:
        """The training ratios."""
        return self._plan((1,) * len(self.choices))

    def __len__(self) -> int:
        return math.prod(map(len, self.choices))

    def __iter__(self) -> Iterator[IsrPlan]:
        return map(self._plan, itertools.product(*self.choices))

    def __contains__(self, plan: object) -> bool:
        return isinstance(plan, IsrPlan) and self._misfit(plan) is None

    def check(self, plan: IsrPlan) -> IsrPlan:
        """The plan, if it is legal. Raises RecipeError saying which stage refuses it, and what that stage
        takes.
        """
        if (problem := self._misfit(plan)) is not None:
            height, width = self.size_hw
            raise RecipeError(
                f"the ISR plan {plan} does not fit this model at {height}x{width} px: {problem}",
                hint="choose multipliers that pool every map without a remainder, or another export.size_hw",
            )
        return plan

    def presets(self) -> list[IsrPlan]:
        """The paper's plans that are legal here, the base left out; of a part without ISR nothing is
        taken.
        """
        cut = [
            IsrPlan(plan.encoder if self.encoder else (), plan.decoder if self.decoder else ())
            for plan in PAPER_PLANS
        ]
        return [plan for plan in dict.fromkeys(cut) if plan in self and not plan.is_base]

    def lighter(self, plan: IsrPlan) -> list[IsrPlan]:
        """The plans with one stage's multiplier raised to its next legal value."""
        return self._moved(plan, +1)

    def neighbours(self, plan: IsrPlan) -> list[IsrPlan]:
        """The plans with one stage's multiplier moved to the next legal value, up or down."""
        return self._moved(plan, +1) + self._moved(plan, -1)

    def _moved(self, plan: IsrPlan, step: int) -> list[IsrPlan]:
        here = (*plan.encoder, *plan.decoder)
        moved = []
        for stage, legal in enumerate(self.choices):
            index = legal.index(here[stage]) + step
            if 0 <= index < len(legal):
                moved.append(self._plan((*here[:stage], legal[index], *here[stage + 1 :])))
        return moved

    def _plan(self, multipliers: tuple[int, ...]) -> IsrPlan:
        stages = len(self.encoder)
        return IsrPlan(multipliers[:stages], multipliers[stages:])

    def _misfit(self, plan: IsrPlan) -> str | None:
        for name, multipliers, choices in (
            ("encoder", plan.encoder, self.encoder),
            ("decoder", plan.decoder, self.decoder),
        ):
            if len(multipliers) != len(choices):
                return f"it has {len(multipliers)} {name} multipliers, the model {len(choices)}"
            for stage, (multiplier, legal) in enumerate(zip(multipliers, choices, strict=True), start=1):
                if multiplier not in legal:
                    return f"{name} stage {stage} takes {', '.join(map(str, legal))}, not {multiplier}"
        return None


def parse_plan(text: str) -> IsrPlan:
    """Read "2,2,1,1-2,2,2". Raises RecipeError."""
    try:
        return IsrPlan.parse(text)
    except ValueError as error:
        raise RecipeError(
            f"{text!r} is no ISR plan: {error}",
            hint=(
                "encoder-decoder multipliers, fine to coarse, e.g. 2,2,1,1-2,2,2; 2,2,1,1 where only the"
                " encoder has ISR"
            ),
        ) from error


@dataclass(frozen=True, slots=True)
class Level:
    """A plan that was chosen to be deployed.

    Attributes:
        miou: on the validation subset of its search, a fraction.
        ms: one image through the engine of the device that it was measured on.
        macs: multiply-adds.
        precision: of the engines that it was measured with.
    """

    plan: IsrPlan
    miou: float
    ms: float
    macs: int
    precision: Precision = "float"

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": str(self.plan),
            "miou": self.miou,
            "ms": self.ms,
            "macs": self.macs,
            "precision": self.precision,
        }


def load_levels(
    path: Path, *, checkpoint_sha256: str | None = None, size_hw: tuple[int, int] | None = None
) -> list[Level]:
    """Read the plan.json of a search: its levels, level 0 first, each lighter than the one before.

    Args:
        checkpoint_sha256, size_hw: where given, the file must have been measured with this checkpoint, at
        this size.
    Raises:
        DataError: no such file, not one of a search, or measured with something else.
    """
    hint = "edgeseg isr RUN --data-root DIR --levels N writes RUN/isr/plan.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        levels = [_level(row) for row in data["levels"]]
        measured_with, measured_at = (
            str(data["checkpoint_sha256"]),
            tuple(int(side) for side in data["size_hw"]),
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:  # JSON that does not parse is a ValueError
        raise DataError(
            f"{path} is not the plan.json of a search: {type(error).__name__}: {error}", hint=hint
        ) from error
    if not levels:
        raise DataError(f"{path} holds no levels", hint=hint)
    if checkpoint_sha256 is not None and measured_with != checkpoint_sha256:
        raise DataError(
            f"{path} was measured with the checkpoint {measured_with[:12]}, this is {checkpoint_sha256[:12]}",
            hint="search again with this checkpoint: edgeseg isr RUN --data-root DIR",
        )
    if size_hw is not None and measured_at != size_hw:
        raise DataError(
            f"{path} was measured at {'x'.join(map(str, measured_at))} px, export.size_hw is"
            f" {size_hw[0]}x{size_hw[1]}",
            hint="search again at this size: edgeseg isr RUN --data-root DIR",
        )
    return levels


def _level(row: Mapping[str, Any]) -> Level:
    figures = float(row["miou"]), float(row["ms"]), int(row["macs"])
    return Level(IsrPlan.parse(row["plan"]), *figures, "int8" if row.get("precision") == "int8" else "float")
