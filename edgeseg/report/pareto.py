"""The plot of a search over ISR plans: accuracy over time, and its front."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from edgeseg.errors import require

_PAPER = ("preset", "recipe", "given")


def draw_pareto(table: Mapping[str, Any]) -> bytes:
    """A search's table.json as PNG: every candidate, the front joined and named, the levels ringed.

    Horizontal bars: the 10 % and 90 % quantiles of a candidate's time over the base plan's.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="report", purpose="draw the front")
    rows, base_ms = table["candidates"], table["base_ms"]
    front = [row for row in rows if row["on_front"]]
    figure = figure_module.Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    named = [row for row in rows if row["origin"] in _PAPER]
    searched = [row for row in rows if row["origin"] not in _PAPER]
    for some, marker, colour, label in (
        (searched, "o", "tab:gray", "searched"),
        (named, "s", "tab:orange", "named beforehand"),
    ):
        if some:
            axes.errorbar(
                *_points(some),
                xerr=[
                    [max(0.0, base_ms * (row["ratio"] - row["ratio_p10"])) for row in some],
                    [max(0.0, base_ms * (row["ratio_p90"] - row["ratio"])) for row in some],
                ],
                fmt=marker,
                color=colour,
                elinewidth=0.5,
                markersize=5,
                alpha=0.8,
                label=label,
            )
    axes.plot(*_points(front), "-", color="tab:blue", linewidth=1.5, label="front", zorder=3)
    levels = [row for row in rows if row["level"] is not None]
    axes.plot(
        *_points(levels),
        "o",
        markersize=12,
        markerfacecolor="none",
        markeredgecolor="tab:red",
        label="chosen levels",
    )
    for row in front:
        axes.annotate(
            row["plan"],
            (row["ms"], 100 * row["miou"]),
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=6.5,
            color="tab:blue",
        )
    height, width = table["size_hw"]
    runtime = f"{table['runtime']} {table['precision']}"
    axes.set(xlabel=f"one image, ms ({runtime}, {table['threads']} threads)", ylabel="mIoU, %")
    axes.set_title(
        f"{table['recipe']}, {width}x{height}, {table['images']} images; times within {table['noise_ms']:.2f}"
        " ms are equal"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _points(rows: list[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["ms"] for row in rows], [100 * row["miou"] for row in rows]
