"""edgeseg demo."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import options, render
from edgeseg.text import quoted


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Output folder.",
)
@options.threads("Threads of the engine; default all physical cores.")
@options.limit("Segment at most N frames.")
@render.json_option
def demo(out: Path, threads: int | None, limit: int | None, as_json: bool) -> None:
    """Build, verify and run the shipped model on a street video, and leave the pictures."""
    from edgeseg.pipeline.demo import run_demo

    with render.RichProgress() as progress:
        result = run_demo(out, threads=threads, limit=limit, progress=progress)

    def human() -> str:
        figures, run = result.engine.engine.measurements, result.run
        worst = min(share for frames in result.agreement.values() for share in frames.values())
        stages = ", ".join(f"{name} {row['p50_ms']:.1f}" for name, row in run.stages.items())
        return (
            f"engine         {result.engine.engine.device}\n               {figures['median_ms']:.1f} ms"
            f" median, {figures['threads']} threads; mask agreement {render.percent(worst, 2)} on the worst"
            f" golden frame\nvideo          {run.frames} frames of {result.source} at {run.fps:.1f} frames/s;"
            f" slowest stage: {run.bottleneck}\n               p50 ms: {stages}\noverlay       "
            f" {result.overlay}\ncontact sheet  {result.sheet}\nreport         {result.report}\nbundle       "
            f"  {result.bundle.path}\nnext           edgeseg run {quoted(result.bundle.path)} --source"
            " YOUR_VIDEO.mp4 --sink out.mp4"
        )

    render.result(result.to_json(), as_json, human)
