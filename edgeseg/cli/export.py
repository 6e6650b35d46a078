"""edgeseg export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import options, render
from edgeseg.text import quoted

if TYPE_CHECKING:
    from edgeseg.export.program import Weights


@click.command()
@click.argument("recipe")
@options.weights
@click.option(
    "--quantized",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help=(
        "Weights of the INT8 program; default quantized.safetensors of the run. Repeatable: a level takes the"
        " one of its plan."
    ),
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Bundle folder; default NAME.edgeseg in the run."
)
@options.data_root("Take golden frames from the validation split below it.", required=False)
@options.levels
@options.plans
@click.option(
    "--weights",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16"]),
    help="Storage of weights.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp16"]),
    help="Programs for GPUs too, in float and half precision; targets with TensorRT have them anyway.",
)
@click.option("--force", is_flag=True, help="Export even where nothing changed.")
@options.overrides
@render.json_option
def export(
    recipe: str,
    checkpoint: Path | None,
    quantized: tuple[Path, ...],
    out: Path | None,
    data_root: Path | None,
    levels: Path | None,
    plans: tuple[str, ...],
    weights: Weights,
    precision: str | None,
    force: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn a checkpoint of RECIPE into a bundle: static ONNX programs, golden frames, and the proof that they
    agree.

    RECIPE is a YAML file, a catalogue name, a run folder of `edgeseg train`, or a checkpoint, which holds its
    recipe. The bundle has one program for each ISR level, from most exact to fastest, on weights that are
    stored once; without --levels and --level, one at the recipe's plan. Where the recipe has a quant section,
    each level has an INT8 program beside the float one; `edgeseg quantize` makes what it needs.
    """
    from edgeseg.api import open_run

    if levels is not None and plans:
        raise click.UsageError(
            "--levels takes the plans of a search, --level plans by hand: give one of the two"
        )
    run = open_run(recipe, checkpoint=checkpoint, overrides=overrides)
    with render.RichProgress() as progress:
        bundle, made = run.export_bundle(
            out,
            levels=levels or plans,
            data=data_root,
            quantized=quantized,
            weights=weights,
            half=precision == "fp16",
            force=force,
            progress=progress,
        )
    size = sum(file.bytes for file in bundle.manifest.files.values())
    isr = [level.isr for level in bundle.manifest.levels]
    precisions = sorted({precision for level in bundle.manifest.levels for precision in level.programs})

    def human() -> str:
        head = f"{'made' if made else 'kept (same inputs)'}  {bundle.path}  {render.size(size)}"
        told = [f"level {n}  {plan}  {', '.join(precisions)}" for n, plan in enumerate(isr)]
        return "\n".join([head, *told, f"next  edgeseg build {quoted(bundle.path)}"])

    data = {"bundle": bundle.path, "made": made, "bytes": size, "levels": isr, "precisions": precisions}
    render.result(data, as_json, human)
