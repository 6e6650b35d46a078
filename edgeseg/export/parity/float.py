"""Float programs against their torch model: does an export still say what the model says?

    graph      torch logits against the ONNX graph, run by ONNX Runtime with every optimisation off
    optimised  the same against ONNX Runtime at its highest optimisation level
    mask       torch class maps against the optimised program's

A failing report names the first rung that broke: the export, the runtime's optimiser, or only ties between
classes. Every export of every form of a float program climbs these rungs; `parity` has the whole ladder, of a
bundle and in both precisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx

from edgeseg.errors import ParityError
from edgeseg.export.parity.runners import onnxruntime_runner
from edgeseg.export.parity.thresholds import Thresholds, thresholds_of
from edgeseg.metrics import mask_agreement
from edgeseg.models.reference import TorchReference
from edgeseg.specs import ImageU8, Program


def compare(
    reference: TorchReference,
    program: Program,
    images: Sequence[ImageU8],
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Climb the ladder on some images and report every rung.

    Args:
        reference: the torch model, at the program's size, mask stride and ISR plan.
        images: (H, W, 3) uint8 RGB of the program's size; at least one.
        thresholds: by default `thresholds_of` the program.
    Returns:
        JSON-ready: `images`, `peak_logit`, `thresholds`, and `rungs`, name -> {value, passed}.
    Raises:
        ParityError: a rung failed; its report is what would have been returned.
    """
    if not images:
        raise ValueError("parity needs an image")
    limits = thresholds or thresholds_of(onnx.load(program.onnx_path), reference.model)
    runs = {
        name: onnxruntime_runner(program, optimised=name == "optimised") for name in ("graph", "optimised")
    }
    peak, errors, agreement = 0.0, dict.fromkeys(runs, 0.0), 1.0
    for image_rgb in images:
        expected = reference.logits(image_rgb).cpu().numpy()
        peak = max(peak, float(np.abs(expected).max()))
        mask = np.empty(0, np.uint8)
        for name, run in runs.items():
            mask, logits = run(image_rgb)
            errors[name] = float(
                np.maximum(errors[name], np.abs(logits - expected).max())
            )  # NaN stays NaN, and fails
        agreement = min(agreement, mask_agreement(expected[0].argmax(0).astype(np.uint8), mask))
    values = {name: error / (peak or 1.0) for name, error in errors.items()}
    rungs = {name: {"value": value, "passed": value <= limits.logits_error} for name, value in values.items()}
    rungs["mask"] = {"value": agreement, "passed": agreement >= limits.mask_agreement}
    report = {"images": len(images), "peak_logit": peak, "thresholds": asdict(limits), "rungs": rungs}
    broken = [name for name, rung in rungs.items() if not rung["passed"]]
    if broken:
        raise ParityError(
            f"{program.onnx_path} differs from its torch model at rung {broken[0]!r}: "
            + ", ".join(f"{name} {rung['value']:.3g}" for name, rung in rungs.items()),
            hint=(
                "try other versions of torch and onnxruntime; report it with the recipe and what edgeseg"
                " doctor says"
            ),
            report=report,
        )
    return report
