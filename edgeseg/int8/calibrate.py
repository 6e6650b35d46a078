"""Calibration: what each quantizer sees of real images, and the range that follows from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.errors import DataError
from edgeseg.int8.ranges import BINS, Histogram, clipped_share, range_of
from edgeseg.int8.rules import quantizers
from edgeseg.recipe.schema import Quant

FEW = 8
"""Fewer images than this are told."""


@dataclass(frozen=True, slots=True)
class Range:
    """One activation: the range it got, the largest absolute value seen, and the share of values beyond the
    range.
    """

    amax: float
    largest: float
    clipped: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What calibration saw.

    Attributes:
        ranges: by quantizer, "<layer>.<input|output|a|b>".
        notes: what the user should know, one sentence each.
    """

    images: int
    method: str
    percentile: float | None
    ranges: dict[str, Range]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Seen:
    """What every activation quantizer saw of so many images: enough for ranges by any method."""

    images: int
    histograms: dict[str, Histogram]


def calibrate(
    model: nn.Module,
    images: Iterable[Tensor],
    settings: Quant,
    progress: Callable[[int], None] = lambda done: None,
) -> CalibrationReport:
    """Give every quantizer of a model its range, in place: weights from themselves, activations from images.

    Args and Raises: as `observe`.
    """
    return set_ranges(model, observe(model, images, progress), settings)


@torch.no_grad()
def observe(
    model: nn.Module,
    images: Iterable[Tensor],
    progress: Callable[[int], None] = lambda done: None,
    *,
    onto: Seen | None = None,
) -> Seen:
    """Count what every activation quantizer is given; no range changes.

    The float model runs: no quantizer rounds while others look, so the order of layers does not matter.

    Args:
        images: (1, 3, H, W) float32, normalised as the deployed model takes them.
        progress: called with the number of images done.
        onto: count on from what the same model saw of these images at another ISR plan; not changed.
    Raises:
        DataError: no images; or values that are not finite, with the layer and the image.
        ValueError: the model has no quantizers, or not those of `onto`.
    """
    activations = _activations(model)
    if not activations:
        raise ValueError("the model has no quantizers: insert_quantizers comes first")
    histograms = copy.deepcopy(onto.histograms) if onto else {name: Histogram() for name in activations}
    if histograms.keys() != activations.keys():
        raise ValueError("what was seen is of another model, or of other quantizers")
    count = 0
    with _looking(model, activations, histograms):
        for count, image in enumerate(images, start=1):
            try:
                logits = model(image.to(next(model.parameters()).device))
                _finite("the model's logits", float(logits.abs().max()))
            except _NotFinite as error:
                raise DataError(
                    f"{error} at calibration image {count}",
                    hint=(
                        "the float model itself computes it, see edgeseg eval; or the image is broken:"
                        " edgeseg calib check"
                    ),
                ) from error
            progress(count)
    if count == 0:
        raise DataError(
            "calibration got no images", hint="edgeseg calib make RECIPE --data-root DIR --n 64 writes a set"
        )
    return Seen(count, histograms)


def set_ranges(model: nn.Module, seen: Seen, settings: Quant) -> CalibrationReport:
    """Give every quantizer its range, in place, by the method that `settings` name; as often as you like, for
    each method.

    Raises:
        DataError: as `calibrate_weights`.
    """
    report = _report(seen.histograms, seen.images, settings)
    calibrate_weights(model)
    for name, quantizer in _activations(model).items():
        quantizer.amax = torch.tensor(report.ranges[name].amax or 1.0)
    return report


def _activations(model: nn.Module) -> dict[str, Any]:
    """Activation quantizers that the rules configured, on or off, by "<layer>.<role>"."""
    return {f"{layer}.{role}": q for layer, role, q in quantizers(model) if role != "weight" and _is_ours(q)}


def calibrate_weights(model: nn.Module) -> None:
    """Give every weight quantizer the largest absolute value of each output channel, so that no weight is
    clipped.

    A channel of zeros gets the range of the layer's largest channel, as any positive scale holds it exactly.

    Raises:
        DataError: weights that are not finite, with the layer.
    """
    modules = dict(model.named_modules())
    for layer, role, quantizer in quantizers(model):
        if role == "weight":
            weight = modules[layer].weight
            assert isinstance(weight, Tensor)
            amax = weight.detach().abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
            if not torch.isfinite(amax).all():
                raise DataError(
                    f"the weights of {layer} are not finite",
                    hint="train again, or take an earlier checkpoint",
                )
            fallback = float(amax.max()) or 1.0
            quantizer.amax = torch.where(amax > 0, amax, fallback)


def _is_ours(quantizer: Any) -> bool:
    """Whether a quantizer was configured by the rules; those of outputs that nobody rounds were not."""
    return getattr(quantizer, "backend", None) is not None


@contextmanager
def _looking(
    model: nn.Module, activations: dict[str, Any], histograms: dict[str, Histogram]
) -> Iterator[None]:
    """In this context the model computes in float, and each quantizer's input is counted."""
    everyone = [quantizer for _, _, quantizer in quantizers(model)]
    hooks = [
        quantizer.register_forward_pre_hook(_Look(name, histograms[name]).hook)
        for name, quantizer in activations.items()
    ]
    training = model.training
    model.eval()
    for quantizer in everyone:
        quantizer.disable_quant()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for quantizer in everyone:
            quantizer.enable_quant()
        model.train(training)


class _Look:
    """Counts what one quantizer is given."""

    def __init__(self, name: str, histogram: Histogram) -> None:
        layer, _, role = name.rpartition(".")
        self.where = f"the {'output' if role == 'output' else 'input'} of {layer}"
        self.histogram = histogram

    def hook(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].detach().abs()
        largest = float(values.max())
        _finite(self.where, largest)
        self.histogram.fit(largest)
        counts = torch.histc(values, BINS, 0.0, self.histogram.top or 1.0)
        self.histogram.add(counts.cpu().numpy().astype(np.int64))


class _NotFinite(Exception):
    """Something in the model is NaN or infinite; says what."""


def _finite(where: str, largest: float) -> None:
    if not np.isfinite(largest):
        raise _NotFinite(f"{where} is not finite")


def _report(histograms: dict[str, Histogram], images: int, settings: Quant) -> CalibrationReport:
    chosen = settings.calibration
    ranges: dict[str, Range] = {}
    for name, histogram in histograms.items():
        amax = range_of(histogram, chosen.method, chosen.percentile)
        ranges[name] = Range(amax, histogram.largest, clipped_share(histogram, amax))
    notes = []
    if images < FEW:
        what = "1 image is" if images == 1 else f"{images} images are"
        notes.append(f"{what} few to find ranges with: take 64 or more")
    dead = [name for name, found in ranges.items() if found.amax == 0.0]
    if dead:
        notes.append(f"nothing but zeros was seen by {', '.join(dead)}: range 1 was taken")
    percentile = chosen.percentile if chosen.method == "percentile" else None
    return CalibrationReport(images, chosen.method, percentile, ranges, tuple(notes))
