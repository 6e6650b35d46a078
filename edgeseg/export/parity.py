"""The parity ladder's float rungs: does an exported program still say what the torch model says?

    graph      torch logits against the ONNX graph, run by ONNX Runtime with every optimisation off
    optimised  the same against ONNX Runtime at its highest optimisation level
    mask       torch class maps against the optimised program's

A failing report names the first rung that broke: the export, the runtime's optimiser, or only ties between classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from torch import nn

from edgeseg.errors import ParityError
from edgeseg.export.graph import with_logits
from edgeseg.metrics import mask_agreement
from edgeseg.models.lda_aqu import LdaAqu
from edgeseg.models.reference import TorchReference
from edgeseg.specs import ImageU8, Program


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How far two forms of one model may differ.

    Attributes:
        logits_error: max abs difference of the logits, over the largest logit of the reference.
        mask_agreement: smallest share of equal mask pixels on any image.
    """

    logits_error: float
    mask_agreement: float


FP32 = Thresholds(logits_error=1e-5, mask_agreement=0.999)
"""Float32 throughout: only the order of additions differs."""
FP32_SAMPLED = Thresholds(logits_error=1e-4, mask_agreement=0.999)
"""Float32 with maps that are read at computed positions: a rounded position is off by as much as the map is steep there."""
FP16_WEIGHTS = Thresholds(logits_error=1e-2, mask_agreement=0.99)
"""Weights rounded to 11 significant bits, arithmetic in float32."""


def thresholds_of(graph: onnx.ModelProto, model: nn.Module) -> Thresholds:
    """The thresholds for a program of `model`, by how its weights are stored and whether it reads maps at computed positions."""
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.graph.initializer)
    sampled = any(isinstance(module, LdaAqu) for module in model.modules())
    return FP16_WEIGHTS if half else FP32_SAMPLED if sampled else FP32


def compare(
    reference: TorchReference, program: Program, images: Sequence[ImageU8], thresholds: Thresholds | None = None
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
    graph = onnx.load(program.onnx_path)
    limits = thresholds or thresholds_of(graph, reference.model)
    runs = {"graph": _logits_session(graph, optimised=False), "optimised": _logits_session(graph, optimised=True)}
    peak, errors, agreement = 0.0, dict.fromkeys(runs, 0.0), 1.0
    for image_rgb in images:
        expected = reference.logits(image_rgb).cpu().numpy()
        peak = max(peak, float(np.abs(expected).max()))
        mask = np.empty(0, np.uint8)
        for name, session in runs.items():
            pixels = image_rgb if program.image.layout == "HWC" else image_rgb.transpose(2, 0, 1)
            mask, logits = session.run(["mask", "logits"], {"image": np.ascontiguousarray(pixels[np.newaxis])})
            errors[name] = max(errors[name], float(np.abs(logits - expected).max()))
        agreement = min(agreement, mask_agreement(expected[0].argmax(0).astype(np.uint8), mask[0]))
    values = {name: error / (peak or 1.0) for name, error in errors.items()}
    rungs = {name: {"value": value, "passed": value <= limits.logits_error} for name, value in values.items()}
    rungs["mask"] = {"value": agreement, "passed": agreement >= limits.mask_agreement}
    report = {"images": len(images), "peak_logit": peak, "thresholds": asdict(limits), "rungs": rungs}
    broken = [name for name, rung in rungs.items() if not rung["passed"]]
    if broken:
        raise ParityError(
            f"{program.onnx_path} differs from its torch model at rung {broken[0]!r}: "
            + ", ".join(f"{name} {rung['value']:.3g}" for name, rung in rungs.items()),
            hint="export again from the checkpoint; if it stays, report it with the recipe",
            report=report,
        )
    return report


def _logits_session(graph: onnx.ModelProto, *, optimised: bool) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(with_logits(graph).SerializeToString(), settings, providers=["CPUExecutionProvider"])
