"""What a search leaves: table.json, pareto.png, report.html, and plan.json with the chosen levels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg.errors import BuildError
from edgeseg.files import refusals, replace_file
from edgeseg.isr.pareto import Candidate, choose, pick_levels
from edgeseg.recipe.schema import Choose
from edgeseg.report.html import isr_page
from edgeseg.report.pareto import draw_pareto
from edgeseg.text import json_document


def leave(
    candidates: Sequence[Candidate],
    front: Sequence[Candidate],
    setting: Mapping[str, Any],
    rule: Choose,
    count: int,
    out: Path,
) -> tuple[dict[str, Any], list[Candidate]]:
    """Choose at most `count` levels, and write everything. Returns the content of table.json, and the levels.

    Args:
        candidates: all that were measured, the base plan among them.
        setting: what table.json says of the measurement; `precision`, `checkpoint_sha256` and `size_hw` go
            into plan.json too.
    Raises:
        GateFailed: no plan satisfies the rule; table and plot are written, a plan.json of an earlier search
            is removed.
        BuildError: the folder cannot be written.
    """
    base = next(c for c in candidates if c.plan.is_base)
    levels: list[Candidate] = []
    try:
        levels = pick_levels(front, choose(front, base.miou, rule), count)
    finally:
        table = {
            **setting,
            "rule": rule.model_dump(exclude_defaults=True),
            "base_ms": round(base.ms, 3),
            "candidates": table_rows(candidates, front, levels),
        }
        _write(table, levels, out)
    return table, levels


def _write(table: Mapping[str, Any], levels: Sequence[Candidate], out: Path) -> None:
    picture = draw_pareto(table)
    plan = {
        "levels": [level.level(table["precision"]).to_json() for level in levels],
        **{name: table[name] for name in ("rule", "checkpoint_sha256", "size_hw")},
    }
    files = {"table.json": _json(table), "pareto.png": picture, "report.html": isr_page(table, picture)}
    with refusals(out, BuildError, "free disk space; the same command continues"):
        for name, content in files.items():
            replace_file(out / name, content)
        if levels:
            replace_file(out / "plan.json", _json(plan))
        else:
            (out / "plan.json").unlink(missing_ok=True)


def table_rows(
    candidates: Iterable[Candidate], front: Sequence[Candidate], levels: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """JSON rows of table.json, the most exact first: every figure of each candidate, mIoU lost, its place on
    the front.
    """
    found = sorted(candidates, key=lambda c: (-c.miou, c.ms, str(c.plan)))
    base_miou = next(c.miou for c in found if c.plan.is_base)
    on_front = {c.plan for c in front}
    number = {c.plan: index for index, c in enumerate(levels)}
    return [
        {
            "plan": str(c.plan),
            "origin": c.origin,
            "macs": c.macs,
            "ms": round(c.ms, 3),
            "ratio": round(c.ratio, 4),
            "ratio_p10": round(c.ratio_p10, 4),
            "ratio_p90": round(c.ratio_p90, 4),
            "median_ms": round(c.median_ms, 3),
            "p10_ms": round(c.p10_ms, 3),
            "p90_ms": round(c.p90_ms, 3),
            "miou": c.miou,
            "drop": base_miou - c.miou,
            "on_front": c.plan in on_front,
            "level": number.get(c.plan),
        }
        for c in found
    ]


def _json(data: Mapping[str, Any]) -> bytes:
    return json_document(data)
