"""Loss of engines in mIoU: measured where there are validation data, else remembered from when there were.

An engine that was refused for its mIoU stays refused when it is built again without the data: its arithmetic
is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from edgeseg.bundle import Bundle
from edgeseg.bundle.manifest import CandidateEntry, EngineEntry
from edgeseg.contracts import Session
from edgeseg.engines.choose.candidates import Trial
from edgeseg.errors import GateFailed

_REMEMBERED = ("miou", "reference_miou")


class MiouGate:
    """Holds engines of a level to the recipe's gate for their precision.

    Args:
        reference: the candidate that others are compared with; judged first.
        accuracy: mIoU of a session, a fraction; None: what is remembered counts.
    """

    def __init__(
        self, bundle: Bundle, level: int, reference: Trial, accuracy: Callable[[Session], float] | None
    ) -> None:
        self._bundle, self._reference, self._accuracy = bundle, reference, accuracy
        manifest = bundle.manifest
        measured: list[EngineEntry | CandidateEntry] = [
            engine for engine in manifest.engines if engine.level == level
        ]
        measured += [row for choice in manifest.choices if choice.level == level for row in choice.candidates]
        self._known = {_arithmetic(one): one.measurements for one in measured if "miou" in one.measurements}

    def judge(self, trial: Trial, session: Session) -> None:
        """Add the mIoU to a candidate's figures, where it is known. Raises GateFailed where too much was
        lost.
        """
        if self._accuracy is not None:
            trial.figures["miou"] = round(self._accuracy(session), 6)
        else:
            known = self._known.get(_arithmetic(trial.row()), {})
            trial.figures |= {name: known[name] for name in _REMEMBERED if name in known}
        before = self._reference.figures.get("miou", trial.figures.get("reference_miou"))
        if before is None or "miou" not in trial.figures:
            return
        gate, allowed = self._bundle.recipe().miou_gate(trial.precision)
        lost = before - trial.figures["miou"]
        if lost > allowed:
            raise GateFailed(
                f"{trial.name} loses {lost:.4f} mIoU against {self._reference.name}; {gate} is {allowed}",
                hint=self._calibrate_again(trial),
                report={"miou": trial.figures["miou"], "reference_miou": before},
            )

    def _calibrate_again(self, trial: Trial) -> str:
        """Return what to do about an INT8 engine that loses too much. A level may live on the scales of
        another one.
        """
        if trial.precision != "int8" or trial.plan is None:
            return "not packed; use another precision of the arithmetic"
        reports = self._bundle.manifest.reports
        told = (
            self._bundle.report("quantization")["levels"][trial.plan.level]
            if "quantization" in reports
            else {}
        )
        home, level = told.get("calibrated_at"), told.get("isr")
        if home == level or level in told["calibration"]["isr"]:
            return (
                "not packed; calibrate again, or train with the quantizers in force: edgeseg quantize RECIPE"
            )
        return (
            f"not packed; its scales were found at ISR {home} alone: edgeseg quantize RECIPE --level {home}"
            f" --level {level}"
        )


def _arithmetic(one: CandidateEntry | EngineEntry) -> str:
    """Hash what decides an engine's mIoU, of a bundle's program at a level: all that its key covers but the
    number of threads.
    """
    options = {name: value for name, value in one.options.items() if name != "threads"}
    return json.dumps([one.runtime, one.precision, options, one.device_key], sort_keys=True)
