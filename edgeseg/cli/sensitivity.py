"""edgeseg sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import options, render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.int8.sensitivity import Mode
    from edgeseg.int8_study.sensitivity import Rank
    from edgeseg.int8_study.sensitivity_study import SensitivityResult

_SHOWN = 25


@click.command()
@click.argument("recipe")
@options.data_root()
@options.float_weights
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; default sensitivity in the run.",
)
@click.option(
    "--mode",
    default="quantize-one",
    show_default=True,
    type=click.Choice(["float-one", "quantize-one"]),
    help="All layers INT8 but one, or one INT8 and all others float.",
)
@click.option(
    "--rank",
    default="noise",
    show_default=True,
    type=click.Choice(["noise", "miou"]),
    help="Rank layers by their share of logit noise, reliable with few images, or by mIoU lost.",
)
@click.option(
    "--limit",
    default=16,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Validation images; 0: all.",
)
@click.option(
    "--budget", is_flag=True, help="Find the fewest layers to keep float within quant.max_miou_drop."
)
@click.option(
    "--budget-limit",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Validation images used to check the budget; 0: all.",
)
@click.option("--runtime", help="Runtime that times --budget; default: the recipe's first target.")
@options.threads("Threads of these engines; default: all cores.")
@click.option(
    "--rounds",
    default=30,
    show_default=True,
    type=click.IntRange(0),
    help="Timing rounds per engine; 0: build none.",
)
@click.option("--force", is_flag=True, help="Measure anew what was measured before.")
@options.overrides
@render.json_option
def sensitivity(
    recipe: str,
    data_root: Path,
    checkpoint: Path | None,
    out: Path | None,
    mode: Mode,
    rank: Rank,
    limit: int,
    budget: bool,
    budget_limit: int,
    runtime: str | None,
    threads: int | None,
    rounds: int,
    force: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what each layer of RECIPE's model costs in INT8, on validation images, after calibration alone.

    RECIPE is a YAML file, a catalogue name, or a run folder of `edgeseg train`. A sweep that was stopped
    continues with the same command. With --budget, the most harmful layers go back to float until mIoU holds,
    and engines tell what that costs in time.
    """
    from edgeseg.api import open_run

    with render.RichProgress() as progress:
        found = open_run(recipe, checkpoint=checkpoint, overrides=overrides).sensitivity(
            data=data_root,
            out=out,
            mode=mode,
            rank=rank,
            limit=limit or None,
            budget=budget,
            budget_limit=budget_limit or None,
            runtime=runtime,
            threads=threads,
            rounds=rounds,
            force=force,
            progress=progress,
        )
    render.result(
        {"out": found.out, "measured_before": found.known, **found.table}, as_json, lambda: _shown(found)
    )


def points(fraction: float) -> str:
    """0.0123 -> "+1.23", in points of mIoU; what rounds to nothing is +0.00."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"


def _shown(found: SensitivityResult) -> list[RenderableType]:
    table = found.table
    height, width = table["size_hw"]
    rows = [
        (
            row["layer"],
            row["kind"],
            render.percent(row["share"], 2),
            render.percent(row["noise"], 2),
            points(row["harm"]),
            "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            render.percent(row["agreement"], 2),
        )
        for row in table["layers"][:_SHOWN]
    ]
    how = "one layer INT8, all others float" if table["mode"] == "quantize-one" else "all layers INT8 but one"
    lines: list[RenderableType] = [
        (
            f"{table['recipe']} at {width}x{height}: {how}; mIoU {render.percent(table['float_miou'], 2)} in"
            f" float, {render.percent(table['int8_miou'], 2)} in INT8 ({table['method']}), torch, on"
            f" {table['images']} images"
        ),
        render.table("", ("layer", "kind", "MACs", "noise", "mIoU lost", "SQNR dB", "agreement"), rows),
        "noise: share of the logit noise with every layer INT8; mIoU lost: points, on these images",
    ]
    if len(table["layers"]) > _SHOWN:
        lines.append(f"{len(table['layers']) - _SHOWN} layers more in the report")
    if table["budget"] is not None:
        lines += _budget_shown(table["budget"])
    return [*lines, f"report  {found.out / 'report.html'}"]


def _budget_shown(budget: dict[str, Any]) -> list[RenderableType]:
    drop, allowed = points(budget["drop"]), f"{100 * budget['allowed']:.2f}"
    if not budget["reverted"]:
        lines: list[RenderableType] = [
            f"\nbudget of {allowed} points holds as it is: {drop} lost on {budget['images']} images, no layer"
            " goes back to float"
        ]
    else:
        lines = [
            (
                f"\nbudget of {allowed} points: {len(budget['reverted'])} layers go back to float; {drop}"
                f" lost on {budget['images']} images, {points(budget['drop_before'])} before"
            ),
            (
                f"coverage  {render.percent(budget['coverage_before'])} ->"
                f" {render.percent(budget['coverage'])} of the multiply-adds"
            ),
        ]
    times = budget["times"]
    if times is not None:
        rows = [
            (
                name,
                f"{one['median_ms']:.1f}",
                f"{one['p10_ms']:.1f}-{one['p90_ms']:.1f}",
                f"{one['speedup']:.2f}",
            )
            for name, one in times["engines"].items()
        ]
        title = (
            f"engines on {times['runtime']} {times['runtime_version']}, {times['threads']} threads, timed in"
            " turns"
        )
        lines.append(render.table(title, ("engine", "ms", "10-90 %", "speed-up"), rows))
    if budget["reverted"]:
        quoted = ", ".join(f'"{name}"' for name in budget["keep_float"])
        lines.append(f"into the recipe, under quant:\n  keep_float: [{quoted}]")
    return lines
