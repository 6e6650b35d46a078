"""Engines are evaluated and built by their accuracy where torch is not installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.images import encode_png
from tiny import SIZE_HW, tiny_bundle, tiny_image, tiny_mask
from torch_free import torch_free
from trees import write_label

WRONG_COLUMNS = 16


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Two images, whose labels are indices with a palette that says otherwise; the second is half wrong."""
    for folder in ("images", "labels"):
        (tmp_path / "val" / folder).mkdir(parents=True)
    for number in range(2):
        image = tiny_image(number)
        label = tiny_mask(image).repeat(2, 0).repeat(2, 1)
        if number:
            label[:, :WRONG_COLUMNS] ^= 1
        (tmp_path / "val/images" / f"{number}.png").write_bytes(encode_png(image))
        write_label(tmp_path / "val/labels" / f"{number}.png", label, palette=True)
    return tmp_path


def test_an_engine_is_built_and_evaluated_without_torch(tmp_path: Path, data_root: Path) -> None:
    bundle, root = tiny_bundle(tmp_path / "tiny.edgeseg").path, str(data_root)
    line = ["--runtime", "onnxruntime", "--data-root", root, "--threads", "1"]
    done = torch_free(
        "from edgeseg.cli.main import run\n"
        f"assert run(['build', {str(bundle)!r}, *{line!r}]) == 0\n"
        "print('FIGURES')\n"
        f"assert run(['eval', {str(bundle)!r}, '--data-root', {root!r}, '--json']) == 0\n"
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.partition("FIGURES\n")[2])
    assert measured["images"] == 2
    assert measured["torch"] is None
    assert measured["engine"]["pixel_accuracy"] == pytest.approx(1 - WRONG_COLUMNS / (2 * SIZE_HW[1]))


def test_what_needs_a_checkpoint_names_the_extra(tmp_path: Path, data_root: Path) -> None:
    from edgeseg.engines.choose.build import build_engine

    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    build_engine(bundle)
    weights = tmp_path / "best.safetensors"
    weights.write_bytes(np.uint64(2).tobytes() + b"{}")
    line = ["eval", str(bundle.path), "--data-root", str(data_root), "--checkpoint", str(weights)]
    done = torch_free(f"from edgeseg.cli.main import run\nprint(run({line!r}))")
    assert done.stdout.split()[-1:] == ["4"], done.stderr
    assert "hint: pip install 'edgeseg[train]'" in done.stderr
