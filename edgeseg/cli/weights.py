"""edgeseg weights import|half."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import render


@click.group()
def weights() -> None:
    """Import published checkpoints; halve the size of one."""


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arch", required=True, help="Catalogue name, e.g. edaformer_t.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Where to write; default FILE with the suffix .edgeseg.safetensors."
)
@click.option("--allow-missing", multiple=True, metavar="GLOB", help="Parameters of ours that the file may lack; repeatable.")
@render.json_option
def import_(file: Path, arch: str, out: Path | None, allow_missing: tuple[str, ...], as_json: bool) -> None:
    """Convert FILE (mmseg layout; .pth or .safetensors) to an edgeseg checkpoint."""
    from edgeseg.models.weights import import_upstream
    from edgeseg.train.checkpoint import save_checkpoint

    model = import_upstream(file, arch, allow_missing)
    out = out or file.with_suffix(".edgeseg.safetensors")
    classes = model.num_classes
    save_checkpoint(
        out, model.state_dict(), {"kind": "weights", "arch": arch, "num_classes": classes, "imported_from": file.name}
    )
    parameters = sum(p.numel() for p in model.parameters())
    render.result(
        {"checkpoint": str(out), "arch": arch, "num_classes": classes, "parameters": parameters},
        as_json,
        lambda: f"{arch}, {classes} classes, {parameters:,} parameters\ncheckpoint  {out}",
    )


@weights.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Where to write.")
@render.json_option
def half(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Store CHECKPOINT's weights as float16, to ship it: half the bytes, widened again when it is read."""
    from edgeseg.train.checkpoint import load_checkpoint, save_checkpoint

    loaded = load_checkpoint(checkpoint)
    save_checkpoint(out, loaded.tensors, loaded.meta, half=True)
    size = out.stat().st_size
    render.result({"checkpoint": out, "bytes": size}, as_json, lambda: f"checkpoint  {out}  {render.size(size)}")
