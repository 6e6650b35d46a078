"""Histograms and the ranges read from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeseg.int8.ranges import BINS, LEVELS, Histogram, Method, clipped_share, range_of

METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "entropy")
TENSORS = arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 1e4, allow_subnormal=False))


def seen(*tensors: npt.NDArray[np.float64]) -> Histogram:
    histogram = Histogram()
    for tensor in tensors:
        histogram.fit(float(tensor.max()))
        histogram.add(np.histogram(tensor, BINS, (0.0, histogram.top or 1.0))[0])
    return histogram


def rounding_error(x: npt.NDArray[np.float64], amax: float) -> float:
    scale = amax / (LEVELS - 1)
    return float((((np.minimum(np.rint(x / scale), LEVELS - 1) * scale) - x) ** 2).mean())


def heavy_tailed(size: int = 50_000, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.abs(np.random.default_rng(seed).standard_t(4, size))


@given(st.lists(TENSORS, min_size=1, max_size=4))
def test_every_value_is_counted_and_lies_inside(tensors: list[npt.NDArray[np.float64]]) -> None:
    histogram = seen(*tensors)
    assert histogram.counts.sum() == sum(tensor.size for tensor in tensors)
    assert histogram.largest == max(tensor.max() for tensor in tensors)
    assert histogram.top >= histogram.largest
    assert (
        histogram.largest == 0 or np.flatnonzero(histogram.counts)[-1] >= BINS // 2 - 1
    )  # half of the bins are in use


@settings(max_examples=30)
@given(TENSORS, TENSORS)
def test_a_range_is_within_what_was_seen_and_zero_for_zeros_alone(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> None:
    histogram = seen(a, b)
    for method in METHODS:
        found = range_of(histogram, method)
        assert 0 <= found <= histogram.largest
        assert (found == 0) == (histogram.largest == 0)
        assert 0 <= clipped_share(histogram, found or 1.0) <= 1


@settings(max_examples=30)
@given(st.floats(1e-6, 1e6), st.sampled_from(METHODS))
def test_a_range_grows_with_its_tensor(factor: float, method: Method) -> None:
    x = heavy_tailed(2000)
    assert range_of(seen(x * factor), method) == pytest.approx(factor * range_of(seen(x), method), rel=1e-9)


def test_max_is_all_percentile_is_its_share_and_more_percent_is_more() -> None:
    x = heavy_tailed()
    histogram = seen(x)
    assert range_of(histogram, "max") == x.max()
    wide = [range_of(histogram, "percentile", percent) for percent in (99.0, 99.9, 99.99, 100.0)]
    assert wide == sorted(wide)
    assert wide[-1] == x.max()
    for percent, found in zip((99.0, 99.9, 99.99), wide, strict=False):
        assert found == pytest.approx(np.percentile(x, percent), rel=5e-3)
        assert clipped_share(histogram, found) == pytest.approx(1 - percent / 100, abs=2e-4)


def test_mse_leaves_less_error_than_other_ranges() -> None:
    x = heavy_tailed()
    histogram = seen(x)
    best = range_of(histogram, "mse")
    assert rounding_error(x, best) < 0.9 * rounding_error(x, x.max())
    for other in (0.7 * best, 1.4 * best, range_of(histogram, "percentile"), range_of(histogram, "entropy")):
        assert rounding_error(x, best) <= rounding_error(x, other) * 1.001


def test_the_order_of_images_costs_a_bin_at_most() -> None:
    small, large = heavy_tailed(seed=1), 30 * heavy_tailed(seed=2)
    for method in METHODS[:3]:  # the cost of entropy is flat where so little is left to see
        a, b = (range_of(seen(*order), method) for order in ((small, large), (large, small)))
        assert a == pytest.approx(b, rel=0.02)


def divergence(x: npt.NDArray[np.float64], amax: float, bins: int) -> float:
    """Kullback-Leibler divergence as TensorRT's slides describe it, one group after another."""
    counts, edges = np.histogram(x, bins, (0.0, x.max()))
    counts[0] = counts[1]
    end = int(np.argmin(np.abs(edges - amax)))
    reference = counts[:end].astype(np.float64)
    rounded = np.zeros(end)
    for level in range(LEVELS):
        inside = [i for i in range(end) if i * LEVELS // end == level and counts[i] > 0]
        rounded[inside] = counts[inside].sum() / max(1, len(inside))
    reference[-1] += counts[end:].sum()
    reference, rounded = reference / reference.sum(), rounded / rounded.sum()
    some = reference > 0
    return float((reference[some] * np.log(reference[some] / np.maximum(rounded[some], 1e-300))).sum())


def test_entropy_diverges_least() -> None:
    x = heavy_tailed()
    histogram = seen(x)
    best = range_of(histogram, "entropy")
    for other in (0.5 * best, 0.9 * best, range_of(histogram, "mse"), x.max()):
        assert divergence(x, best, BINS) <= divergence(x, other, BINS)


def test_percentiles_are_modelopts() -> None:
    """On one tensor, for which modelopt's histogram has the same bins. Its mse takes the bits for a bias, and
    finds nonsense.
    """
    import torch

    from edgeseg.int8.insert import modelopt

    values = heavy_tailed().astype(np.float32)
    with modelopt():
        from modelopt.torch.quantization.calib import HistogramCalibrator

        theirs = HistogramCalibrator(8, None, False, num_bins=BINS)
        theirs.collect(torch.from_numpy(values))
        expected = {
            percent: float(theirs.compute_amax("percentile", percentile=percent))
            for percent in (99.0, 99.9, 99.99)
        }
    for percent, amax in expected.items():
        assert range_of(seen(values.astype(np.float64)), "percentile", percent) == pytest.approx(
            amax, rel=5e-3
        )
