"""The picture of a quantization: what INT8 costs, class by class, and what it saves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from edgeseg.errors import require

_COLOURS = {"float": "tab:gray", "ptq": "tab:orange", "qat": "tab:blue"}
_NAMES = {"float": "float", "ptq": "INT8, calibrated", "qat": "INT8, trained"}


def draw_quantization(report: Mapping[str, Any]) -> bytes:
    """A quant.json as PNG: IoU of each class and their mean, float beside INT8; and the time of one image of
    each engine.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="report", purpose="draw what quantization costs")
    figure = figure_module.Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.2))
    accuracy = report["accuracy"]
    names = [*accuracy["float"]["classes"], "mean"]
    width = 0.8 / len(accuracy)
    for number, (kind, measured) in enumerate(accuracy.items()):
        ious = [*(row["iou"] for row in measured["classes"].values()), measured["miou"]]
        left.bar(
            [position + (number - (len(accuracy) - 1) / 2) * width for position in range(len(names))],
            [100 * (iou or 0.0) for iou in ious],
            width,
            color=_COLOURS[kind],
            label=f"{_NAMES[kind]}: {100 * measured['miou']:.2f} %",
        )
    left.set(ylabel="IoU through the engine, %", ylim=(0, 100))
    left.set_xticks(range(len(names)), names, rotation=60, ha="right")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(accuracy), fontsize=8, frameon=False)
    left.grid(axis="y", alpha=0.3)
    rows = [row for row in report["engines"] if row["median_ms"]]
    colours = [_COLOURS[report["best"] if row["precision"] == "int8" else "float"] for row in rows]
    right.barh(
        [f"{row['runtime']}\n{row['kind']}" for row in rows],
        [row["median_ms"] for row in rows],
        color=colours,
    )
    right.invert_yaxis()
    right.set(xlabel="one image, ms (median)")
    right.grid(axis="x", alpha=0.3)
    height, wide = report["size_hw"]
    images = accuracy["float"]["images"]
    figure.suptitle(
        f"{report['recipe']}, {wide}x{height}, ISR {report['isr']}: {100 * report['coverage']['share']:.1f} %"
        f" of the MACs in INT8, {images} images",
        fontsize=10,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
