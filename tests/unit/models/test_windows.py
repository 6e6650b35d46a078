"""Varying windows against their definition, read pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeseg.models.windows import context_windows, copy_shift_pad, merge_windows, query_windows, window_count

sides = st.tuples(st.integers(1, 10), st.integers(1, 5))  # windows along the side, and pixels of one
ratios = st.sampled_from([1, 2, 3, 4, 8])


def numbered(*shape: int) -> Tensor:
    """Every value once, and no zero."""
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)


def source(window: int, offset: int, count: int, side: int, ratio: int) -> int | None:
    """The pixel of the map that a context window shows at `offset`, None for a zero.

    The published code's words: pad with zeros to the context's length where the side is shorter; before the
    left end comes the tail of the first `context` pixels, behind the right end the head of the last; then cut
    at every window.
    """
    size = side // count
    context = ratio * size
    left = max(context - side, 0) // 2
    padded: list[int | None] = [None] * left + list(range(side)) + [None] * (max(context - side, 0) - left)
    reach = (ratio + 1) * size // 2
    before, after = padded[reach:context], padded[len(padded) - context : len(padded) - reach]
    return [*before, *range(side), *after][window * size + offset]


@settings(max_examples=30)
@given(rows=sides, columns=sides, ratio=ratios)
def test_context_windows_are_their_definition(
    rows: tuple[int, int], columns: tuple[int, int], ratio: int
) -> None:
    (nh, ph), (nw, pw), depth = rows, columns, 2
    x = numbered(2, nh * ph, nw * pw, depth)
    ours = context_windows(x, (nh, nw), ratio)
    assert ours.shape == (2, nh * nw, ph * pw, ratio * ratio * depth)
    for window in {0, nw - 1, nh * nw // 2, nh * nw - 1}:
        for token in {0, pw - 1, ph * pw // 2, ph * pw - 1}:
            for cell in range(ratio * ratio):
                y = source(window // nw, token // pw * ratio + cell // ratio, nh, nh * ph, ratio)
                z = source(window % nw, token % pw * ratio + cell % ratio, nw, nw * pw, ratio)
                expected = torch.zeros(2, depth) if y is None or z is None else x[:, y, z]
                assert torch.equal(ours[:, window, token, cell * depth : (cell + 1) * depth], expected)


@given(side=sides, ratio=ratios)
def test_padding_shows_the_map_and_what_lies_one_context_further_inside(
    side: tuple[int, int], ratio: int
) -> None:
    count, size = side
    x = numbered(count * size)
    before = ratio * size - (ratio + 1) * size // 2
    padded = copy_shift_pad(x, 0, count, ratio)
    assert len(padded) == (count + ratio - 1) * size
    for i, value in enumerate(padded.tolist()):
        position = i - before
        if ratio <= count:
            position += ratio * size * (position < 0) - ratio * size * (position >= len(x))
            assert value == x[position]
        elif 0 <= position < len(x):
            assert value == x[position]


def test_no_zero_enters_where_the_map_holds_the_context() -> None:
    assert context_windows(numbered(1, 24, 16, 1), (8, 8), 8).all()
    assert not context_windows(numbered(1, 12, 16, 1), (4, 8), 8).all()


@given(rows=sides, columns=sides)
def test_query_windows_and_back(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    (nh, ph), (nw, pw) = rows, columns
    x = numbered(2, nh * ph, nw * pw, 3)
    windows = query_windows(x, (nh, nw))
    assert windows.shape == (2, nh * nw, ph * pw, 3)
    last = x[:, (nh - 1) * ph :, (nw - 1) * pw :].reshape(2, ph * pw, 3)
    assert torch.equal(windows[:, -1], last)
    assert torch.equal(merge_windows(windows, (nh, nw), (nh * ph, nw * pw)), x)


@given(side=st.integers(1, 512))
def test_windows_divide_the_side_and_are_eight_where_that_is_possible(side: int) -> None:
    count = window_count(side)
    assert side % count == 0
    assert count == 8 or side % 8


@pytest.mark.parametrize(("side", "count"), [(4, 4), (12, 6), (20, 10), (44, 11), (60, 10), (76, 4), (64, 8)])
def test_other_sides_are_cut_into_about_eight(side: int, count: int) -> None:
    assert window_count(side) == count
