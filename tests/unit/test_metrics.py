"""edgeseg.metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeseg.metrics import ConfusionMatrix, boundary_f1, mask_agreement, over_smoothness, sqnr_db

masks = hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 3))


@given(masks, masks)
def test_iou_is_intersection_over_union_by_sets(true: np.ndarray, predicted: np.ndarray) -> None:
    confusion = ConfusionMatrix(4)
    confusion.update(true, predicted)
    for k, iou in enumerate(confusion.iou()):
        union = np.count_nonzero((true == k) | (predicted == k))
        if union == 0:
            assert math.isnan(iou)
        else:
            assert iou == pytest.approx(np.count_nonzero((true == k) & (predicted == k)) / union)
    assert confusion.pixel_accuracy() == pytest.approx(mask_agreement(true, predicted))


def test_ignored_pixels_do_not_count_and_absent_classes_leave_the_mean() -> None:
    confusion = ConfusionMatrix(3, ignore_index=255)
    confusion.update(np.array([[0, 0, 255, 1]], np.uint8), np.array([[0, 1, 2, 1]], np.uint8))
    assert confusion.counts.sum() == 3
    assert confusion.iou()[:2].tolist() == [0.5, 0.5]
    assert confusion.miou() == 0.5
    report = confusion.report(["a", "b", "c"])
    assert report["classes"]["c"]["iou"] is None


def test_counts_add_up_over_batches() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 5, (2, 8, 8)).astype(np.uint8) for _ in range(3)]
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    for true, predicted in pairs:
        whole.update(true, predicted)
        one = ConfusionMatrix(5)
        one.update(true, predicted)
        parts += one
    assert np.array_equal(whole.counts, parts.counts)


def test_values_that_are_no_class_are_refused() -> None:
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="label value 7"):
        confusion.update(np.array([[7]], np.uint8), np.array([[0]], np.uint8))
    with pytest.raises(ValueError, match="prediction value 3"):
        confusion.update(np.array([[0]], np.uint8), np.array([[3]], np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        confusion.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_nothing_counted_is_nan() -> None:
    confusion = ConfusionMatrix(2)
    assert math.isnan(confusion.miou())
    assert math.isnan(confusion.pixel_accuracy())
    assert confusion.report(["a", "b"])["miou"] is None


def test_sqnr_of_known_noise() -> None:
    reference = np.ones(1000)
    assert sqnr_db(reference, reference * 0.9) == pytest.approx(20.0)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


@given(masks)
def test_boundary_f1_of_equal_masks_is_one(mask: np.ndarray) -> None:
    assert boundary_f1(mask, mask) == 1.0


def test_boundary_f1_tolerates_small_shifts_only() -> None:
    def half(column: int) -> np.ndarray:
        mask = np.zeros((32, 32), np.uint8)
        mask[:, column:] = 1
        return mask

    assert boundary_f1(half(10), half(12), tolerance_px=2) == 1.0
    assert boundary_f1(half(10), half(16), tolerance_px=2) == 0.0
    assert boundary_f1(half(10), np.zeros((32, 32), np.uint8)) == 0.0
    ignored = half(10)
    ignored[:, 14:20] = 255
    assert boundary_f1(ignored, half(10), tolerance_px=1) == 1.0


def mean_cosine(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    cosines = [float(a @ b) / max(1e-300, float(np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs]
    return sum(cosines) / len(cosines) if cosines else math.nan


@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.integers(-3, 3)),
    hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255])),
)
def test_over_smoothness_is_the_mean_cosine_of_pairs(features: np.ndarray, mask: np.ndarray) -> None:
    vectors = {(i, j): features[:, i, j].astype(np.float64) for i in range(4) for j in range(5)}
    pairs = [(p, q) for p in vectors for q in vectors if p < q]
    labelled = [(p, q) for p, q in pairs if mask[p] != 255 and mask[q] != 255]
    groups = {
        "overall": pairs,
        "local": [(p, q) for p, q in pairs if max(abs(p[0] - q[0]), abs(p[1] - q[1])) == 1],
        "within": [(p, q) for p, q in labelled if mask[p] == mask[q]],
        "between": [(p, q) for p, q in labelled if mask[p] != mask[q]],
    }
    result = over_smoothness(features, mask)
    for name, group in groups.items():
        expected = mean_cosine([(vectors[p], vectors[q]) for p, q in group])
        assert getattr(result, name) == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_over_smoothness_without_labels_and_of_a_constant_map() -> None:
    constant = over_smoothness(np.ones((8, 4, 4)))
    assert (constant.overall, constant.local) == pytest.approx((1.0, 1.0))
    assert math.isnan(constant.within) and math.isnan(constant.between)
    assert math.isnan(over_smoothness(np.ones((8, 1, 1))).overall)
    with pytest.raises(ValueError, match="does not label"):
        over_smoothness(np.ones((8, 4, 4)), np.zeros((4, 5), np.uint8))
