"""edgeseg bundle show | verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import bundle_show, options, render

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.group()
def bundle() -> None:
    """Look into a bundle, and check it."""


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@render.json_option
def show(path: Path, as_json: bool) -> None:
    """Show what BUNDLE holds: ISR levels, programs, engines and their figures.

    A level's mIoU and multiply-adds are those of the search that chose it; its time is that of this device's
    engine. Times hold for the power mode and the clocks that are shown with the machine that took them.
    """
    from edgeseg.bundle import open_bundle

    opened = open_bundle(path)
    render.result(bundle_show.document(opened), as_json, lambda: bundle_show.human(opened))


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--run", is_flag=True, help="Also run this device's engine on the golden frames.")
@options.threads("With --run; default: as the engine was built.")
@render.json_option
def verify(path: Path, run: bool, threads: int | None, as_json: bool) -> None:
    """Check every file of BUNDLE against its hash; with --run also what its engine gives."""
    from edgeseg.bundle import open_bundle
    from edgeseg.engines.open import verify_engines

    opened = open_bundle(path)
    found = opened.verify()
    agreement = verify_engines(opened, threads) if run else {}
    minimum = opened.recipe().gate.min_mask_agreement
    data = {
        "path": opened.path,
        "ok": True,
        "files": found.files,
        "bytes": found.bytes,
        "unlisted": found.unlisted,
    }
    data |= {"mask_agreement": agreement, "min_mask_agreement": minimum}

    def human() -> list[RenderableType]:
        parts: list[RenderableType] = [
            f"{opened.path}: {found.files} files intact, {render.size(found.bytes)}"
        ]
        parts += [f"not in the manifest, and never read: {name}" for name in found.unlisted]
        rows = [
            (engine, frame, share) for engine, frames in agreement.items() for frame, share in frames.items()
        ]
        if rows:
            title = f"golden frames: mask agreement, at least {render.percent(minimum)} wanted"
            shown = [(engine, frame, render.percent(share, 2)) for engine, frame, share in rows]
            parts.append(render.table(title, ("engine", "frame", "agreement"), shown))
        return parts

    render.result(data, as_json, human)
