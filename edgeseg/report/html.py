"""Reports as one self-contained page: no scripts, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; font-family: ui-monospace, monospace; }
tr.front { background: #eef5ff; }
tr.level { font-weight: bold; }
img { max-width: 100%; }
"""


def isr_page(table: Mapping[str, Any], picture: bytes) -> bytes:
    """The page of a search: its plot (PNG), what was measured how, and every candidate. UTF-8."""
    height, width = table["size_hw"]
    levels = sorted(
        (row for row in table["candidates"] if row["level"] is not None), key=lambda row: row["level"]
    )
    chosen = "; ".join(
        f"level {row['level']}: {row['plan']}, {row['ms']:.1f} ms, mIoU {100 * row['miou']:.2f} %"
        for row in levels
    )
    noise = f"{table['noise_ms']:.2f} ms ({100 * table['noise']:.2f} %)"
    setting = {
        "chosen": chosen or "none: no plan satisfies the rule",
        "rule": ", ".join(f"{name}: {value}" for name, value in table["rule"].items()),
        "checkpoint": f"{table['recipe']} ({table['arch']}), sha256 {table['checkpoint_sha256'][:16]}",
        "precision": _precision(table),
        "image": f"{width}x{height}, mask at stride {table['mask_stride']}",
        "accuracy": f"mIoU of the engine on {table['images']} validation images, evenly spread",
        "device": f"{table['device']}, {table['threads']} threads",
        "time": (
            f"{table['rounds']} interleaved rounds; ms is the median ratio to the base plan in the same"
            f" round, times {table['base_ms']:.2f} ms; differences below {noise} are noise"
        ),
        "candidates": (
            f"{len(table['candidates'])} of {table['legal_plans']} legal plans ({table['strategy']})"
        ),
    }
    base_macs = max(row["macs"] for row in table["candidates"])
    columns = (
        "plan",
        "mIoU %",
        "lost",
        "ms",
        "time",
        "time p10",
        "time p90",
        "GMAC",
        "MACs",
        "from",
        "front",
        "level",
    )
    rows = [
        (
            " ".join(
                name for name, on in (("front", row["on_front"]), ("level", row["level"] is not None)) if on
            ),
            (
                row["plan"],
                f"{100 * row['miou']:.2f}",
                f"{100 * row['drop']:.2f}",
                f"{row['ms']:.1f}",
                f"{row['ratio']:.3f}",
                f"{row['ratio_p10']:.3f}",
                f"{row['ratio_p90']:.3f}",
                f"{row['macs'] / 1e9:.2f}",
                f"{row['macs'] / base_macs:.3f}",
                row["origin"],
                "yes" if row["on_front"] else "",
                "" if row["level"] is None else row["level"],
            ),
        )
        for row in table["candidates"]
    ]
    listed = "".join(f"<li><b>{escape(name)}</b> {escape(text)}</li>" for name, text in setting.items())
    body = (
        f"<ul>{listed}</ul>"
        f'<img alt="accuracy over time" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"<p>Time and MACs without unit are shares of the base plan's.</p>{_table(columns, rows)}"
    )
    return _page(f"ISR plans of {table['recipe']}", body)


def _precision(table: Mapping[str, Any]) -> str:
    if table["precision"] == "float":
        return "float"
    scales = (
        f"one set of scales for every plan, found at {table['calibrated_at']}, sha256"
        f" {table['quantized_sha256'][:16]}"
    )
    return f"INT8, {scales}; the float base plan has mIoU {100 * table['float_base_miou']:.2f} %"


def sensitivity_page(table: Mapping[str, Any], picture: bytes) -> bytes:
    """The page of a sensitivity sweep: its picture (PNG), what was measured how, the accuracy budget, every
    layer. UTF-8.
    """
    height, width = table["size_hw"]
    calibration, budget = table["calibration"], table.get("budget")
    variant = (
        "the layer alone in INT8" if table["mode"] == "quantize-one" else "all layers in INT8 but this one"
    )
    setting = {
        "checkpoint": (
            f"{table['recipe']} ({table['arch']}), sha256 {table['checkpoint_sha256'][:16]}, ISR"
            f" {table['isr']}"
        ),
        "image": f"{width}x{height}, mask at stride {table['mask_stride']}",
        "calibration": f"{table['method']} on {calibration['images']} images of {calibration['set']}",
        "measured": (
            f"{variant}; the torch model with fake quantization on {table['images']} validation images,"
            " evenly spread"
        ),
        "mIoU": (
            f"{100 * table['float_miou']:.2f} % in float, {100 * table['int8_miou']:.2f} % with every layer"
            " in INT8"
        ),
    }
    if budget is not None:
        setting["budget"] = (
            f"{100 * budget['allowed']:.2f} points: {len(budget['reverted'])} layers float give"
            f" {100 * budget['miou']:.2f} % on {budget['images']} images, {100 * budget['drop']:+.2f} points"
            f" lost; coverage {100 * budget['coverage_before']:.1f} % -> {100 * budget['coverage']:.1f} %"
        )
    reverted = set(budget["reverted"]) if budget else set()
    columns = ("layer", "kind", "MACs %", "noise %", "mIoU lost", "mIoU %", "SQNR dB", "agreement %")
    rows = [
        (
            "level" if row["layer"] in reverted else "",
            (
                row["layer"],
                row["kind"],
                f"{100 * row['share']:.2f}",
                f"{100 * row['noise']:.2f}",
                f"{100 * row['harm']:+.2f}",
                f"{100 * row['miou']:.2f}",
                "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
                f"{100 * row['agreement']:.2f}",
            ),
        )
        for row in table["layers"]
    ]
    listed = "".join(f"<li><b>{escape(name)}</b> {escape(text)}</li>" for name, text in setting.items())
    body = (
        f"<ul>{listed}</ul>"
        f'<img alt="layers by harm" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"<p>Noise is a layer's share of the logit noise of the model with every layer in INT8. Bold:"
        f" reverted to float.</p>"
        f"{_table(columns, rows)}"
    )
    return _page(f"Layers of {table['recipe']} by what INT8 costs", body)


def _page(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return (
        "<!doctype html><html"
        f' lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>{body}</body></html>\n'.encode()
    )


def _table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]]) -> str:
    """Rows of (CSS classes, cells)."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = (
        f'<tr class="{kind}">{"".join(f"<td>{escape(str(cell))}</td>" for cell in cells)}</tr>'
        for kind, cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
