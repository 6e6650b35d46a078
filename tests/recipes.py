"""A complete recipe, as text, and its file."""

from __future__ import annotations

from pathlib import Path

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
