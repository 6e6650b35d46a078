"""A complete recipe, as text, its file, and the mistakes that are told of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.errors import RecipeError
from edgeseg.recipe.load import load_recipe

GOOD = """\
name: street_test
summary: a recipe for tests
model:
  arch: edaformer_nano
data:
  format: synthetic
  classes: null
  train: null
  val: null
augment:
  crop_hw: [128, 128]
train:
  steps: 200
  batch_size: 8
  warmup_steps: 20
isr: {encoder: [1, 1, 1, 1], decoder: [1, 1, 1]}
quant: null
export:
  size_hw: [128, 128]
  mask_stride: 1
targets:
  - runtime: onnxruntime
gate:
  max_miou_drop: 0.01
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    """The mistake lines of the error, with the file's name cut to `F`."""
    file = write(folder, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    assert caught.value.exit_code == 2
    assert "edgeseg recipe schema" in caught.value.hint
    header, *lines = str(caught.value).splitlines()
    assert header == f"{len(lines)} mistake{'s' if len(lines) > 1 else ''} in {file}"
    return [line.replace(str(file), "F") for line in lines]
