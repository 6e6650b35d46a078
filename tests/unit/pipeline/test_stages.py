"""edgeseg.pipeline.stages: a stage is skipped when, and only when, nothing that it depends on changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import BuildError
from edgeseg.pipeline.stages import Stage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def done(folder: Path, inputs: dict[str, Any]) -> Stage:
    made = folder / "below" / "made.bin"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(b"weights")
    stage = Stage(folder / "stage.json", inputs)
    stage.done({"miou": 0.5}, [made])
    return stage


@given(JSON, JSON)
def test_kept_for_the_same_inputs_and_for_no_others(
    tmp_path_factory: pytest.TempPathFactory, one: Any, other: Any
) -> None:
    folder = tmp_path_factory.mktemp("stage")
    done(folder, {"x": one})
    assert Stage(folder / "stage.json", {"x": one}).kept() == {"miou": 0.5}
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (Stage(folder / "stage.json", {"x": other}).kept() is not None) == same


@pytest.mark.parametrize(
    "change", ["file", "no file", "no record", "half a record", "another record", "list"]
)
def test_what_was_changed_or_lost_is_made_anew(tmp_path: Path, change: str) -> None:
    stage = done(tmp_path, {"x": (1, 2)})
    assert stage.kept() is not None
    made, record = tmp_path / "below" / "made.bin", tmp_path / "stage.json"
    if change == "file":
        made.write_bytes(b"Weights")
    elif change == "no file":
        made.unlink()
    elif change == "no record":
        record.unlink()
    else:
        record.write_text(
            {"half a record": record.read_text()[:40], "another record": "{}", "list": "[]"}[change]
        )
    assert stage.kept() is None


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BuildError, match="cannot be written") as caught:
        Stage(tmp_path / "file" / "stage.json", {}).done({})
    assert "--out" in caught.value.hint
