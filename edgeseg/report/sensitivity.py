"""The picture of a sensitivity sweep: which layers INT8 hurts most."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from edgeseg.errors import require

SHOWN = 40
_COLOURS = {"Conv2d": "tab:blue", "Linear": "tab:green", "Product": "tab:orange"}


def draw_sensitivity(table: Mapping[str, Any]) -> bytes:
    """A sensitivity.json as PNG: for the most harmful layers, their share of the logit noise and the mIoU
    that they cost.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure_module = require(
        "matplotlib.figure", extra="report", purpose="draw the layers that INT8 hurts most"
    )
    rows = table["layers"][:SHOWN]
    figure = figure_module.Figure(figsize=(11, 1.6 + 0.2 * max(6, len(rows))), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [row["layer"] for row in rows]
    reverted = set((table.get("budget") or {}).get("reverted", ()))
    for axes, key, label in (
        (left, "noise", "share of the INT8 model's logit noise, %"),
        (right, "harm", "mIoU lost, points"),
    ):
        axes.barh(
            names,
            [100 * row[key] for row in rows],
            color=[_COLOURS.get(row["kind"], "tab:gray") for row in rows],
            edgecolor=["tab:red" if row["layer"] in reverted else "none" for row in rows],
            linewidth=1.5,
        )
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=6.5)
    kinds = {row["kind"]: _COLOURS.get(row["kind"], "tab:gray") for row in rows}
    patches = require("matplotlib.patches", extra="report", purpose="draw the layers that INT8 hurts most")
    handles = [patches.Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    handles += (
        [patches.Patch(facecolor="none", edgecolor="tab:red", label="reverted to float")] if reverted else []
    )
    right.legend(handles=handles, loc="lower right", fontsize=8)
    height, width = table["size_hw"]
    how = "it alone in INT8" if table["mode"] == "quantize-one" else "it alone in float"
    figure.suptitle(
        f"{table['recipe']}, {width}x{height}: each layer with {how}, {table['images']} images; "
        f"mIoU {100 * table['float_miou']:.2f} in float, {100 * table['int8_miou']:.2f} in INT8",
        fontsize=10,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
