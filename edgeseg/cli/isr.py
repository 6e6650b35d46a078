"""edgeseg isr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeseg.cli import options, render
from edgeseg.text import quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.isr.finetune import Finetuned
    from edgeseg.isr.search import SearchResult, Strategy
    from edgeseg.specs import IsrPlan

_SEARCH_ONLY = (
    *("strategy", "plans", "limit", "rounds", "levels", "max_plans"),
    *("device", "runtime", "threads", "precision", "quantized", "force"),
)

_NOISY = 0.05


@click.command()
@click.argument("recipe")
@options.data_root()
@options.weights
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; default isr in the run, or isr-int8.",
)
@click.option(
    "--search",
    "strategy",
    default="greedy",
    show_default=True,
    type=click.Choice(["greedy", "grid", "presets"]),
    help="greedy: the paper's plans, then a local search; grid: every legal plan; presets: the paper's only.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    metavar="PLAN",
    help="Measure this plan too, e.g. 2,2,1,1-2,2,2; repeatable.",
)
@click.option(
    "--max-plans",
    default=64,
    show_default=True,
    type=click.IntRange(2),
    help="Measure at most so many plans.",
)
@options.limit()
@click.option(
    "--rounds", default=30, show_default=True, type=click.IntRange(2), help="Timing rounds per plan."
)
@click.option(
    "--levels",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Keep N plans of the front.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device to measure for; it must be this machine.",
)
@click.option("--runtime", help="A row of the engine table; default: the recipe's first target.")
@options.threads("Threads of the engines; default: all cores.")
@click.option(
    "--precision",
    default="float",
    show_default=True,
    type=click.Choice(["float", "int8"]),
    help="Precision of the engines; int8 measures every plan with the scales of one quantized checkpoint.",
)
@click.option(
    "--quantized",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With int8; default quantized.safetensors of the run.",
)
@click.option("--force", is_flag=True, help="Measure anew what an earlier search measured.")
@click.option(
    "--finetune", metavar="PLAN", help="Instead of searching: train on for isr.finetune_steps at this plan."
)
@options.overrides
@render.json_option
@click.pass_context
def isr(
    context: click.Context,
    recipe: str,
    data_root: Path,
    checkpoint: Path | None,
    out: Path | None,
    strategy: Strategy,
    plans: tuple[str, ...],
    max_plans: int,
    limit: int | None,
    rounds: int,
    levels: int,
    device: str,
    runtime: str | None,
    threads: int | None,
    precision: str,
    quantized: Path | None,
    force: bool,
    finetune: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Choose how far attention is thinned, by accuracy and time measured on this device's engine.

    RECIPE is a YAML file, a catalogue name, a run folder of `edgeseg train`, or a checkpoint, which holds its
    recipe. No weight changes: one checkpoint serves every plan, also in INT8. A search that was stopped
    continues with the same command. `isr.choose` in the recipe is the rule for level 0; `edgeseg export
    --levels OUT/plan.json` packs the levels that were chosen.
    """
    from edgeseg.api import open_run
    from edgeseg.isr.plans import parse_plan

    run = open_run(recipe, checkpoint=checkpoint, overrides=overrides, data=data_root)
    if finetune is not None:
        given = [
            name for name in _SEARCH_ONLY if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        ]
        if given:
            raise click.UsageError(
                f"--finetune trains and does not search: {', '.join(given)} cannot go with it", context
            )
        with render.RichProgress() as progress:
            tuned = run.finetune_isr(finetune, out=out, progress=progress)
        _render_tuned(tuned, parse_plan(finetune), as_json)
        return
    if quantized is not None and precision == "float":
        raise click.UsageError("--quantized names the weights of INT8 engines: add --precision int8", context)
    from edgeseg.devices.local import check_here

    check_here(device)
    with render.RichProgress() as progress:
        found = run.search_isr(
            levels=levels,
            out=out,
            precision=precision,
            quantized=quantized,
            strategy=strategy,
            plans=tuple(parse_plan(plan) for plan in plans),
            limit=limit,
            rounds=rounds,
            max_plans=max_plans,
            runtime=runtime,
            threads=threads,
            force=force,
            progress=progress,
        )
    data = {"out": found.out, "measured_before": found.known, "levels_wanted": levels, **found.table}
    render.result(data, as_json, lambda: _shown(found, levels))


def _shown(found: SearchResult, wanted: int) -> list[RenderableType]:
    table = found.table
    rows: list[dict[str, Any]] = table["candidates"]
    base_macs = max(row["macs"] for row in rows)
    height, width = table["size_hw"]
    title = (
        f"{table['recipe']} at {width}x{height}: mIoU on {table['images']} images, time on {table['runtime']}"
        f" {table['precision']} with {table['threads']} threads; time and MACs over the base plan's; times"
        f" closer than {render.percent(table['noise'], 2)} are equal"
    )
    shown = [
        (
            row["plan"],
            render.percent(row["miou"], 2),
            f"{0.0 - 100 * row['drop']:+.2f}",
            f"{row['ms']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_p10']:.2f}-{row['ratio_p90']:.2f}",
            f"{row['macs'] / base_macs:.3f}",
            row["origin"],
            "" if not row["on_front"] else "front" if row["level"] is None else f"level {row['level']}",
        )
        for row in rows
    ]
    columns = ("plan", "mIoU", "points", "ms", "time", "10-90 %", "MACs", "from", "")
    told = f"{len(rows)} of {table['legal_plans']} legal plans"
    if "float_base_miou" in table:
        base_miou = rows[0]["miou"] + rows[0]["drop"]
        told += (
            f"; base plan: {render.percent(table['float_base_miou'], 2)} in float,"
            f" {render.percent(base_miou, 2)} in INT8"
        )
    if found.known:
        told += f", {found.known} of them measured before (--force measures anew)"
    lines = [told, f"report  {found.out / 'report.html'}", f"levels  {found.out / 'plan.json'}"]
    if len(found.levels) < wanted:
        lines.append(f"{wanted} levels were wanted; from level 0 on the front has {len(found.levels)}")
    if table["noise"] > _NOISY:
        lines.append(
            f"the machine was busy: only differences of {render.percent(table['noise'])} count; measure again"
            " with --force"
        )
    return [render.table(title, columns, shown), "\n".join(lines)]


def _render_tuned(tuned: Finetuned, plan: IsrPlan, as_json: bool) -> None:
    render.result(
        {
            "plan": str(plan),
            "miou_before": tuned.before,
            "miou_after": tuned.after,
            "steps": tuned.steps,
            "run_dir": tuned.run_dir,
            "checkpoint": tuned.checkpoint,
        },
        as_json,
        lambda: (
            f"mIoU at {plan}: {tuned.before:.4f} before, {tuned.after:.4f} after {tuned.steps} steps\n"
            f"checkpoint  {tuned.checkpoint}\nnext        edgeseg export {quoted(tuned.run_dir)}"
        ),
    )
