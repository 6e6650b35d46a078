"""edgeseg weights import|half."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render
from edgeseg.errors import BuildError
from edgeseg.files import Target
from edgeseg.text import plain

if TYPE_CHECKING:
    from edgeseg.models.weights import Imported


@click.group()
def weights() -> None:
    """Import published checkpoints; halve the size of one."""


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arch", required=True, help="Catalogue name, e.g. edaformer_t.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; default FILE with the suffix .edgeseg.safetensors.",
)
@click.option(
    "--allow-missing",
    multiple=True,
    metavar="GLOB",
    help="Parameters of ours that the file may lack; repeatable.",
)
@click.option(
    "--entry",
    metavar="NAME",
    help="The model to take where FILE holds several; default: the averaged one that fits.",
)
@render.json_option
def import_(
    file: Path, arch: str, out: Path | None, allow_missing: tuple[str, ...], entry: str | None, as_json: bool
) -> None:
    """Convert FILE, a published checkpoint, to an edgeseg checkpoint.

    FILE is a torch file (.pth, .pt, .ckpt, .bin), .safetensors, .npz, or a folder of Hugging Face. Nothing in
    it is run: what is not plain data is refused, with the line that converts it elsewhere. Its layout is
    recognised.

    A file without a decoder, such as an ImageNet classifier, gives the encoder alone, to train from:
    edgeseg train RECIPE --init OUT, with train.init_skip: ["decoder.*"] in the recipe.
    """
    from edgeseg.checkpoints.file import save_checkpoint
    from edgeseg.models.weights import import_upstream

    out = out or file.with_suffix(".edgeseg.safetensors")
    target = Target(out, BuildError)
    imported = import_upstream(file, arch, allow_missing, entry)
    facts = {
        "arch": arch,
        "layout": imported.layout,
        "num_classes": imported.num_classes,
        "options": imported.options,
        "parameters": imported.parameters,
        "entry": imported.entry,
        "others": list(imported.others),
        "aside": list(imported.aside),
        **imported.classes.to_facts(),
    }
    meta = {name: facts[name] for name in ("arch", "num_classes", "options")} | imported.classes.to_facts()
    save_checkpoint(target, imported.tensors, {"kind": "weights", **meta, "imported_from": file.name})

    def human() -> str:
        classes = (
            "encoder alone, no classes" if imported.num_classes is None else f"{imported.num_classes} classes"
        )
        options = ", ".join(f"{name}: {plain(value)}" for name, value in imported.options.items())
        lines = [f"{arch}, {classes}, {imported.parameters:,} parameters", f"looks like  {imported.layout}"]
        lines += _classes(imported) if imported.num_classes else []
        if imported.others:
            others = ", ".join(name or "the file itself" for name in imported.others)
            lines.append(
                f"taken       {imported.entry or 'the file itself'}   (also there: {others}; --entry NAME"
                " takes another)"
            )
        if imported.aside:
            more = f" and {len(imported.aside) - 4} more" if len(imported.aside) > 4 else ""
            lines.append(f"left out    {', '.join(imported.aside[:4])}{more}   (no part of the model)")
        lines += [f"options     {options}   (write them into the recipe: model.options)"] if options else []
        return "\n".join([*lines, f"checkpoint  {out}"])

    render.result({"checkpoint": str(out), **facts}, as_json, human, file=out)


def _classes(imported: Imported) -> list[str]:
    """Describe the classes that the file names."""
    from edgeseg.recipe.labels import FORMATS, label_space, order_in

    names, count = imported.classes.names, imported.num_classes
    like = [form for form in FORMATS if label_space(form).num_classes == count]
    if names:
        like = [form for form in like if order_in(label_space(form).names, names)]
    told = f"   ({'those of' if names else 'as many as'} {' or '.join(like)})" if like else ""
    if not names:
        return [f"names       none: the recipe's classes are taken to be the file's, in their order{told}"]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    colours = "" if imported.classes.palette_rgb else ", without colours"
    return [f"names       {', '.join(names[:4])}{more}{colours}{told}"]


@weights.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@render.json_option
def half(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Store CHECKPOINT's weights as float16, to ship it: half the bytes, widened again when it is read."""
    from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint

    target = Target(out, BuildError)
    loaded = load_checkpoint(checkpoint)
    size = save_checkpoint(target, loaded.tensors, loaded.meta, half=True)
    data = {"checkpoint": out, "bytes": size}
    render.result(data, as_json, lambda: f"checkpoint  {out}  {render.size(size)}", file=out)
