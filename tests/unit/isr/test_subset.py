"""What a search measures on: a subset of the validation images, and the interval of a median."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgeseg.data.subset import Subset
from edgeseg.errors import DataError
from edgeseg.isr.measure import median_interval
from halves import Data


def test_subset_is_spread_read_once_and_known_by_content() -> None:
    data = Data(10)
    subset = Subset(data, 4)
    assert subset.names == ["val/0", "val/3", "val/6", "val/9"]
    assert np.array_equal(subset.load(1)[0], Data(10).load(3)[0])
    assert data.loads == 4
    assert subset.sha256 == Subset(Data(10), 4).sha256 != Subset(Data(10), 5).sha256
    small = Subset(data, 4, kept_bytes=0)
    loads = data.loads
    assert np.array_equal(small.load(2)[1], subset.load(2)[1]) and data.loads == loads + 1
    assert len(Subset(data, 99)) == 10


def test_a_validation_set_without_anything_to_count_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        Subset(Data(0))
    with pytest.raises(DataError, match="no pixel"):
        Subset(Data(2, void=True))


@pytest.mark.parametrize(
    "count,inside",
    [(1, (0, 0)), (2, (0, 1)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (15, (3, 11)), (20, (5, 14))],
)
def test_interval_of_the_median(count: int, inside: tuple[int, int]) -> None:
    """Ranks (from 0) of the tabled 95 % intervals."""
    values = list(range(count))
    random.Random(0).shuffle(values)
    assert median_interval(values) == inside
