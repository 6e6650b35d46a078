"""edgeseg build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from edgeseg.bundle import Bundle

_RUNTIMES = {"auto": "onnxruntime", "cpu": "onnxruntime"}
"""Device option -> the runtime that serves it."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True, type=click.Choice(list(_RUNTIMES)), help="What to build for.")
@click.option("--threads", type=click.IntRange(1), help="Default: all physical cores that this process may use.")
@click.option("--force", is_flag=True, help="Build even where the engine is there.")
@render.json_option
def build(bundle: Path, device: str, threads: int | None, force: bool, as_json: bool) -> None:
    """Build the engines of BUNDLE for this device: compile, check on the golden frames, time, pack.

    An engine that is there already is kept.
    """
    from edgeseg.engines.build import build_engine

    opened = _bundle(bundle)
    with render.RichProgress() as progress:
        made = [
            build_engine(
                opened, _RUNTIMES[device], level=number, precision=precision, threads=threads, force=force, progress=progress
            )
            for number, level in enumerate(opened.manifest.levels)
            for precision in level.programs
        ]
    data = {
        "bundle": opened.path,
        "engines": [{"built": one.built, "reason": one.reason, **one.engine.model_dump(mode="json")} for one in made],
    }

    def human() -> str:
        lines, isr = [], [level.isr for level in opened.manifest.levels]
        for one in made:
            engine, figures = one.engine, one.engine.measurements
            lines.append(
                f"level {engine.level} ({isr[engine.level]}) {engine.precision}: "
                f"{'built' if one.built else 'kept'} ({one.reason})\n"
                f"  {engine.device}\n"
                f"  {render.duration(figures['median_ms'] / 1000)} median, {render.duration(figures['p90_ms'] / 1000)} p90, "
                f"spread {render.percent(figures['spread'], 0)}, {figures['threads']} threads; "
                f"mask agreement {render.percent(min(figures['mask_agreement'].values()), 2)} on the worst golden frame"
            )
        return "\n".join([*lines, f"next: edgeseg run {opened.path} --source VIDEO"])

    render.result(data, as_json, human)


def _bundle(path: Path) -> Bundle:
    """The bundle to build for. A recipe would be trained and exported to one here."""
    from edgeseg.bundle import open_bundle

    return open_bundle(path)
