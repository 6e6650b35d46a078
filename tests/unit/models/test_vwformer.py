"""VWFormer's decoder: shapes, gradients, its attention window by window, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeseg.errors import RecipeError
from edgeseg.export.parity.float import compare
from edgeseg.export.program import export_program
from edgeseg.models.eft import Eft
from edgeseg.models.layers import to_nhwc
from edgeseg.models.reference import TorchReference
from edgeseg.models.segmentor import Segmentor
from edgeseg.models.vwformer import VaryingWindowAttention, VwDecoder
from edgeseg.models.windows import context_windows, query_windows
from edgeseg.specs import Form, ImageSpec, LabelSpace
from golden_rule import fill

CHANNELS = (4, 8, 12, 16)
CLASSES = 5


def feats(height: int, width: int, batch: int = 1) -> list[Tensor]:
    """Maps of an image of this size, as an encoder gives them."""
    generator = torch.Generator().manual_seed(height * width)
    return [
        torch.randn(batch, c, height // s, width // s, generator=generator)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def decoder(**options: object) -> VwDecoder:
    return fill(VwDecoder(CHANNELS, CLASSES, **{"width": 64, "low_width": 8, **options})).eval()  # type: ignore[arg-type]


@settings(max_examples=6)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), batch=st.sampled_from([1, 2]))
@torch.inference_mode()
def test_every_multiple_of_the_stride_is_taken(rows: int, columns: int, batch: int) -> None:
    logits = decoder()(feats(32 * rows, 32 * columns, batch))
    assert logits.shape == (batch, CLASSES, 8 * rows, 8 * columns)
    assert logits.isfinite().all()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("shortcut", [False, True])
@torch.inference_mode()
def test_attention_window_by_window(heads: int, shortcut: bool) -> None:
    attention = fill(VaryingWindowAttention(16, heads, 2, shortcut)).eval()
    x = torch.randn(2, 16, 16, 24, generator=torch.Generator().manual_seed(0))
    context = context_windows(to_nhwc(attention.embed(x)), (8, 8), 2)
    expected = torch.empty_like(x)
    for window in range(64):
        maps = [
            tokens[:, window].transpose(1, 2).reshape(2, 16, 2, 3)
            for tokens in (query_windows(to_nhwc(x), (8, 8)), context)
        ]
        q, k, v = (
            conv(tokens).flatten(2).unflatten(1, (heads, 16 // heads)).transpose(2, 3)
            for conv, tokens in zip(
                (attention.query, attention.key, attention.value), (maps[0], maps[1], maps[1]), strict=True
            )
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(2, 16, 2, 3)
        row, column = window // 8 * 2, window % 8 * 3
        expected[:, :, row : row + 2, column : column + 3] = out
    expected = attention.proj(expected) + (x if shortcut else 0.0)
    assert (attention(x) - expected).abs().max() < 1e-6


def test_fresh_attention_is_its_shortcut() -> None:
    attention = VwDecoder(CHANNELS, CLASSES, width=64).mix.windows[0].eval()
    x = torch.randn(1, 64, 16, 16)
    assert torch.equal(attention(x), x)


def test_gradients_reach_every_parameter() -> None:
    model = decoder()  # in evaluation: batch statistics would take the biases in front of them out
    model(feats(64, 96)).square().mean().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7}
    # A bias of keys moves all scores of a query alike, which softmax ignores; what is left of its gradient is
    # rounding.
    assert idle == {f"mix.windows.{i}.key.bias" for i in range(3)}


def test_one_image_cannot_be_normalised_over_the_batch() -> None:
    one = feats(64, 64)
    with pytest.raises(RecipeError, match="one image") as caught:
        decoder().train()(one)
    assert "batch_size" in caught.value.hint
    decoder().eval()(one)
    decoder(image_pool=False).train()(one)


@pytest.mark.parametrize("wrong", [{"width": 48}, {"heads": 3}, {"ratios": (2, 3)}, {"upsample": "wavelet"}])
def test_options_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"does not divide|wavelet"):
        decoder(**wrong)


@torch.inference_mode()
def test_torch_export() -> None:
    model, maps = decoder(), feats(96, 160)
    program = torch.export.export(model, (maps,))
    assert (program.module()(maps) - model(maps)).abs().max() < 1e-5


# The first in windows of 2x2 pixels, six by ten of them, so that zeros enter; the last in windows of whole
# cells.
SIZES = [
    (96, 160),
    *(pytest.param(size_hw, marks=pytest.mark.slow) for size_hw in ((64, 64), (480, 640), (512, 512))),
]


@pytest.mark.parametrize("form", [Form.PLAIN, Form.CPU])
@pytest.mark.parametrize("size_hw", SIZES)
def test_programs(tmp_path: Path, size_hw: tuple[int, int], form: str) -> None:
    encoder = Eft(CHANNELS, (1, 1, 1, 1), 4, 2.0)
    model = Segmentor(fill(encoder), decoder()).eval()
    labels = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)
    image = ImageSpec(size_hw)
    program = export_program(
        model,
        image=image,
        labels=labels,
        mask_stride=4,
        arch="vwformer",
        out=tmp_path / "model.onnx",
        form=form,
    )
    operators = {node.op_type for node in onnx.load(program.onnx_path).graph.node}
    assert not operators & {
        "Loop",
        "If",
        "Range",
        "NonZero",
        "Shape",
        "Gather",
        "GatherND",
        "ScatterND",
        "Identity",
    }
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    compare(TorchReference(model, image, 4), program, [pixels])
