"""Which engine becomes the default: the rule by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.bundle.manifest import CandidateEntry
from edgeseg.engines.choose.choice import select


def candidate(
    ms: float, precision: str = "float", verdict: str = "passed", speedup: float | None = None
) -> CandidateEntry:
    figures = {"median_ms": ms, **({} if speedup is None else {"speedup": speedup})}
    return CandidateEntry.model_validate(
        {"runtime": "r", "precision": precision, "options": {}, "verdict": verdict, "measurements": figures}
    )


@pytest.mark.parametrize(
    ("candidates", "default"),
    [
        ([candidate(5)], 0),
        ([candidate(5), candidate(4)], 1),
        ([candidate(5), candidate(4, verdict="refused")], 0),
        ([candidate(5), candidate(3), candidate(4, "int8")], 1),
        ([candidate(5), candidate(3), candidate(3, "int8")], 1),
        ([candidate(5), candidate(3), candidate(2, "int8")], 2),
        ([candidate(5, verdict="refused"), candidate(2, "int8")], None),
        ([candidate(5, verdict="refused")], None),
        ([candidate(5, speedup=1), candidate(6, speedup=1.1)], 1),
        ([candidate(5, speedup=1), candidate(90_000, speedup=0)], 0),
        ([candidate(5, speedup=1), candidate(4)], 1),
        ([candidate(5, speedup=1), candidate(4, "int8", speedup=0.9)], 0),
        ([candidate(5, speedup=1), candidate(6, "int8", speedup=1.1)], 0),
        ([candidate(5, speedup=1), candidate(4, "int8", speedup=1.1)], 1),
        ([candidate(5, speedup=1.1), candidate(3, speedup=1), candidate(4, "int8", speedup=1.2)], 0),
    ],
)
def test_the_fastest_that_passed(candidates: list[CandidateEntry], default: int | None) -> None:
    judged = select(candidates)
    assert [row.verdict == "default" for row in judged] == [
        index == default for index in range(len(candidates))
    ]
    assert [row.measurements for row in judged] == [row.measurements for row in candidates]


@given(
    st.lists(
        st.builds(
            candidate,
            st.integers(1, 9),
            st.sampled_from(["float", "fp16", "int8"]),
            st.sampled_from(["passed", "refused"]),
            st.sampled_from([None, 0.5, 1.0, 1.5]),
        )
    )
)
def test_no_int8_engine_is_default_unless_it_beats_every_other(candidates: list[CandidateEntry]) -> None:
    judged = select(candidates)
    passed = [row.measurements for row in candidates if row.verdict == "passed"]
    floats = [row.measurements for row in candidates if row.precision != "int8" and row.verdict == "passed"]
    defaults = [row for row in judged if row.verdict == "default"]
    assert len(defaults) == bool(floats)
    for row in defaults:
        own = row.measurements
        if all("speedup" in figures for figures in passed):
            best = max(figures["speedup"] for figures in floats)
            least_ms = min(figures["median_ms"] for figures in floats)
            assert (
                own["speedup"] > best and own["median_ms"] < least_ms
                if row.precision == "int8"
                else own["speedup"] == best
            )
        else:
            best = min(figures["median_ms"] for figures in floats)
            assert own["median_ms"] < best if row.precision == "int8" else own["median_ms"] == best
    assert [row.verdict for row in judged if row.verdict == "refused"] == [
        r.verdict for r in candidates if r.verdict == "refused"
    ]
