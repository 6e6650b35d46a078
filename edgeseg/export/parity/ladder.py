"""The parity ladder: from the trained model to the engine, each rung compares two neighbours, so that the
first that breaks says where.

    P0  torch module          against  the golden frames that the bundle was made with
    P1  torch model           against  ONNX Runtime, every optimisation off, canonical program
    P2  that                  against  ONNX Runtime as engines run it, and every other form of the program
    P3  that                  against  another runtime
    P4  compiled engine       against  float checkpoint, mIoU on the validation set

P1 of INT8 imposes the same integers on both sides, see `imposed`; its P2 and P3 leave both sides alone.
`thresholds` has all limits. A rung that cannot be climbed, for want of a checkpoint, a runtime or data, says
why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from edgeseg.bundle.golden import GoldenFrame
from edgeseg.devices.integers import integers_here
from edgeseg.errors import MissingDependency, ParityError, Unsupported
from edgeseg.export.parity.runners import OTHERS, Answer, Runner, answers, onnxruntime_runner
from edgeseg.export.parity.same_codes import Misplaced, compare_imposed
from edgeseg.export.parity.thresholds import GOLDEN, IMPOSED, Limit, Limits, runtime_limits, thresholds_of
from edgeseg.metrics import mask_agreement, sqnr_db
from edgeseg.models.reference import TorchReference
from edgeseg.specs import Form, ImageU8, Precision, Program

Name = Literal["P0", "P1", "P2", "P3", "P4"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One comparison.

    Attributes:
        compares: both sides, in words.
        figures: what was measured, the worst over all images; those in `limits` are judged.
        skipped: why it was not climbed; empty where it was.
        problem: why it failed without figures; empty where it did not.
        details: more of what was measured, as JSON values.
    """

    name: Name
    compares: str
    figures: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)
    skipped: str = ""
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Why it failed, a clause each; empty where it passed or was skipped."""
        if self.skipped or self.problem:
            return [self.problem] if self.problem else []
        missed = {name: limit for name, limit in self.limits.items() if not limit.holds(self.figures[name])}
        return [f"{name} {self.figures[name]:.4g}, wanted {limit}" for name, limit in missed.items()]

    @property
    def passed(self) -> bool | None:
        """None where it was skipped."""
        return None if self.skipped else not self.broken

    def to_json(self) -> dict[str, Any]:
        """No number that JSON lacks: two sides that are equal have no noise, and null for its ratio."""
        limits = {name: str(limit) for name, limit in self.limits.items()}
        return {
            "rung": self.name,
            "compares": self.compares,
            "passed": self.passed,
            "figures": _finite(self.figures),
            "limits": limits,
            "skipped": self.skipped,
            "problem": self.problem,
            **({"details": _finite(self.details)} if self.details else {}),
        }


def _finite(value: Any) -> Any:
    """The same JSON value with null for every number that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(what: str, rungs: Sequence[Rung]) -> None:
    """Raise ParityError at the first rung that broke; its report has them all."""
    for rung in rungs:
        if rung.broken:
            raise ParityError(
                f"{what}: rung {rung.name} ({rung.compares}) broke: {'; '.join(rung.broken)}",
                hint=_HINTS[rung.name],
                report={"rungs": [one.to_json() for one in rungs]},
            )


_HINTS: dict[Name, str] = {
    "P0": "give the checkpoint that the bundle was exported from, or export again",
    "P1": (
        "give the checkpoint that the bundle was exported from; else report it with the recipe and what"
        " edgeseg doctor says"
    ),
    "P2": (
        "try another version of onnxruntime; report it with the recipe and what edgeseg devices --here says"
    ),
    "P3": (
        "edgeseg build BUNDLE --runtime onnxruntime; report it with the other runtime's version and edgeseg"
        " devices --here"
    ),
    "P4": "edgeseg quantize RECIPE with another calibration or with QAT, or a larger gate in the recipe",
}


def golden_rung(reference: TorchReference, frames: Iterable[GoldenFrame], precision: Precision) -> Rung:
    """P0: a torch module, with its quantizers where it is INT8, and the masks of golden frames."""
    shares = {frame.name: mask_agreement(reference.infer(frame.image_rgb), frame.mask) for frame in frames}
    figures = {"mask_agreement": min(shares.values())}
    compares = f"{precision} torch module against golden frames"
    return Rung("P0", compares, figures, GOLDEN[precision], details={"mask_agreement": shares})


def graph_rung(reference: TorchReference, program: Program, images: Sequence[ImageU8]) -> Rung:
    """P1: a torch model, with its quantizers where the program is INT8, and the canonical program.

    Args:
        reference: at the program's size, mask stride and ISR plan.
        images: (H, W, 3) uint8 RGB of the program's size; at least one.
    """
    if program.precision == "int8":
        compares = "quantized torch model against ONNX Runtime unoptimised, same integers imposed"
        try:
            imposed = compare_imposed(reference, program, images)
        except Misplaced as problem:
            return Rung("P1", compares, problem=str(problem))
        return Rung("P1", compares, imposed.figures(), IMPOSED, details=imposed.to_json())
    limit = thresholds_of(onnx.load(program.onnx_path), reference.model).logits_error
    run, error, peak = onnxruntime_runner(program, optimised=False), 0.0, 0.0
    for image_rgb in images:
        expected = reference.logits(image_rgb).cpu().numpy()
        error = float(
            np.maximum(error, np.abs(run(image_rgb).logits - expected).max())
        )  # NaN stays NaN, and fails
        peak = max(peak, float(np.abs(expected).max()))
    limits = {"logits_error": Limit(most=limit)}
    compares = "torch model against ONNX Runtime unoptimised"
    return Rung("P1", compares, {"logits_error": error / (peak or 1.0)}, limits, details={"peak_logit": peak})


def optimised_rung(canonical: Program, forms: Mapping[Form, Program], images: Sequence[ImageU8]) -> Rung:
    """P2: the canonical program without optimisation, and every form as ONNX Runtime optimises it for an
    engine here.

    Left out are forms that it computes wrongly on this processor, which never gets them; the details say
    which.
    """
    plain = answers(onnxruntime_runner(canonical, optimised=False), images)
    wrong = integers_here().wrong
    found = {
        form: _against(plain, onnxruntime_runner(program, optimised=True), images)
        for form, program in forms.items()
        if form not in wrong
    }
    details = {"forms": found, "not_run_here": [form for form in forms if form in wrong]}
    compares = "ONNX Runtime unoptimised against optimised, every form"
    return Rung("P2", compares, _worst(found.values()), runtime_limits(canonical.precision), details=details)


def runtime_rung(canonical: Program, runtime: str, program: Program, images: Sequence[ImageU8]) -> Rung:
    """P3: the canonical program in ONNX Runtime without optimisation, and another runtime with the form that
    it gets.

    Skipped where the other runtime is not installed, or computes such programs wrongly on this processor.
    """
    compares = f"ONNX Runtime unoptimised against {runtime}"
    try:
        other = OTHERS[runtime](program)
    except Unsupported as error:
        return Rung(
            "P3",
            compares,
            skipped=f"{error}: {error.hint}" if isinstance(error, MissingDependency) else str(error),
        )
    found = _against(answers(onnxruntime_runner(canonical, optimised=False), images), other, images)
    return Rung("P3", compares, found, runtime_limits(canonical.precision))


def accuracy_rung(lost: float, gate: str, allowed: float, details: Mapping[str, Any]) -> Rung:
    """P4: mIoU that the engine lost against the float checkpoint, held to the recipe's gate."""
    limits = {"miou_drop": Limit(most=allowed)}
    return Rung(
        "P4",
        f"compiled engine against float checkpoint, {gate}",
        {"miou_drop": lost},
        limits,
        details=details,
    )


def _against(plain: Sequence[Answer], runner: Runner, images: Sequence[ImageU8]) -> dict[str, float]:
    pairs = list(zip(plain, answers(runner, images), strict=True))
    return {
        "mask_agreement": min(mask_agreement(a.mask, b.mask) for a, b in pairs),
        "sqnr_db": min(sqnr_db(a.logits, b.logits) for a, b in pairs),
    }


def _worst(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = list(found)
    return {name: min(row[name] for row in rows) for name in ("mask_agreement", "sqnr_db")}
