"""edgeseg.report.curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg.errors import DataError
from edgeseg.report.curve import draw_curve, read_curve


def run_dir(folder: Path, rows: list[dict[str, float]]) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_losses_and_validations_are_told_apart(tmp_path: Path) -> None:
    rows = [{"step": 50, "loss": 1.0}, {"step": 100, "loss": 0.5}, {"step": 100, "miou": 0.4}]
    losses, validations = read_curve(run_dir(tmp_path, rows) / "metrics.jsonl")
    assert [r["step"] for r in losses] == [50, 100]
    assert validations == [{"step": 100, "miou": 0.4}]


@pytest.mark.parametrize("validations", [[], [{"step": 100, "miou": 0.4}]])
def test_the_picture(tmp_path: Path, validations: list[dict[str, float]]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    draw_curve(
        run_dir(tmp_path, [{"step": 50, "loss": 1.0}, {"step": 100, "loss": 0.5}, *validations]),
        tmp_path / "c.png",
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".c*"))


@pytest.mark.parametrize("content", [None, "", "no json\n"])
def test_nothing_to_draw(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError):
        draw_curve(tmp_path, tmp_path / "c.png")
