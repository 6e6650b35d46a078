"""edgeseg weights import|half."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import render
from edgeseg.errors import BuildError
from edgeseg.files import Target


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
    """Convert FILE, a published checkpoint (torch or .safetensors), to an edgeseg checkpoint.

    Its layout is recognised. A file without a decoder, such as an ImageNet classifier, gives the encoder alone, to train from:
    edgeseg train RECIPE --init OUT, with train.init_skip: ["decoder.*"] in the recipe.
    """
    from edgeseg.models.weights import import_upstream
    from edgeseg.train.checkpoint import save_checkpoint

    out = out or file.with_suffix(".edgeseg.safetensors")
    target = Target(out, BuildError)
    imported = import_upstream(file, arch, allow_missing)
    facts = {
        "arch": arch,
        "layout": imported.layout,
        "num_classes": imported.num_classes,
        "options": imported.options,
        "parameters": imported.parameters,
    }
    meta = {name: facts[name] for name in ("arch", "num_classes", "options")}
    save_checkpoint(target, imported.tensors, {"kind": "weights", **meta, "imported_from": file.name})

    def human() -> str:
        classes = "encoder alone, no classes" if imported.num_classes is None else f"{imported.num_classes} classes"
        options = ", ".join(f"{name}: {render.plain(value)}" for name, value in imported.options.items())
        lines = [f"{arch}, {classes}, {imported.parameters:,} parameters", f"looks like  {imported.layout}"]
        lines += [f"options     {options}   (write them into the recipe: model.options)"] if options else []
        return "\n".join([*lines, f"checkpoint  {out}"])

    render.result({"checkpoint": str(out), **facts}, as_json, human, file=out)


@weights.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Where to write.")
@render.json_option
def half(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Store CHECKPOINT's weights as float16, to ship it: half the bytes, widened again when it is read."""
    from edgeseg.train.checkpoint import load_checkpoint, save_checkpoint

    target = Target(out, BuildError)
    loaded = load_checkpoint(checkpoint)
    size = save_checkpoint(target, loaded.tensors, loaded.meta, half=True)
    data = {"checkpoint": out, "bytes": size}
    render.result(data, as_json, lambda: f"checkpoint  {out}  {render.size(size)}", file=out)
