"""LDA-AQU against its definition, read pixel by pixel, and as an ONNX graph."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.models.lda_aqu import LdaAqu
from golden_rule import fill

Array = npt.NDArray[np.float64]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def read(x: Array, row: float, column: float) -> Array:
    """(C, h, w) -> (C,): bilinear, zero outside."""
    total = np.zeros(x.shape[0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * x[:, i, j]
    return total


def by_definition(module: LdaAqu, x: Tensor, q: Array, shift: Array) -> Array:
    """(C, h, w) -> (C, H, W) from upsampled queries (d, H, W) and shifts (groups, neighbours, 2, H, W) in
    output pixels.
    """
    keys = module.key(module.norm(x.permute(1, 2, 0)).permute(2, 0, 1)).numpy()
    vectors = module.position.weight.numpy().reshape(
        module.heads, len(module.neighbours), -1
    )  # (heads, neighbours, d / heads)
    values, (height, width), window = x.numpy(), q.shape[1:], math.isqrt(len(module.neighbours))
    scale_y, scale_x = (x.shape[1] - 1) / (height - 1), (x.shape[2] - 1) / (width - 1)
    out = np.empty((x.shape[0], height, width))
    for row in range(height):
        for column in range(width):
            near_keys, near_values = [], []
            for n in range(window**2):
                dy, dx = n // window - window // 2, n % window - window // 2
                parts: tuple[list[Array], list[Array]] = ([], [])
                for moved, key, part in zip(
                    shift, np.split(keys, module.groups), np.split(values, module.groups), strict=True
                ):
                    at = (
                        (row + dy + moved[n, 1, row, column]) * scale_y,
                        (column + dx + moved[n, 0, row, column]) * scale_x,
                    )
                    parts[0].append(read(key, *at))
                    parts[1].append(read(part, *at))
                near_keys.append(np.concatenate(parts[0]))
                near_values.append(np.concatenate(parts[1]))
            for head in range(module.heads):
                of_key, of_value = (
                    slice(head * c // module.heads, (head + 1) * c // module.heads) for c in (len(q), len(x))
                )
                query = q[of_key, row, column] / math.sqrt(len(q) / module.heads)
                logits = np.array(
                    [query @ (near_keys[n][of_key] + vectors[head, n]) for n in range(window**2)]
                )
                weights = np.exp(logits - logits.max())
                out[of_value, row, column] = (
                    weights @ np.array([v[of_value] for v in near_values]) / weights.sum()
                )
    return out


@settings(max_examples=12)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    scale=st.integers(2, 4),
    heads=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2]),
    window=st.sampled_from([1, 3]),
    max_shift_px=st.sampled_from([0.0, 3.0, 11.0]),
)
@torch.inference_mode()
def test_every_pixel_is_what_the_definition_says(
    size: tuple[int, int], scale: int, heads: int, groups: int, window: int, max_shift_px: float
) -> None:
    module = fill(LdaAqu(16, scale, 4, heads, groups, window, max_shift_px)).double().eval()
    x = noise(2, 16, *size).double()
    taps: dict[str, Tensor] = {}
    module.position.register_forward_pre_hook(lambda _module, inputs: taps.update(q=inputs[0]))
    module.shift.register_forward_hook(lambda _module, _inputs, output: taps.update(shift=output))
    output = module(x)
    scaled = taps["q"].numpy() * math.sqrt(4 / heads)
    shift = (taps["shift"].tanh() * max_shift_px).unflatten(0, (2, groups)).unflatten(2, (-1, 2)).numpy()
    for image in range(2):
        assert (
            np.abs(output[image].numpy() - by_definition(module, x[image], scaled[image], shift[image])).max()
            < 1e-9
        )


def corner_to_corner(small: int, large: int) -> Array:
    """(large, small): linear interpolation that keeps both ends."""
    at = np.linspace(0, small - 1, large)
    return np.stack([np.interp(at, np.arange(small), unit) for unit in np.eye(small)], axis=1)


@torch.inference_mode()
def test_queries_are_normed_projected_scaled_and_resized_corner_to_corner() -> None:
    module = fill(LdaAqu(16, heads=2)).double().eval()
    queries: list[Tensor] = []
    module.position.register_forward_pre_hook(lambda _module, inputs: queries.append(inputs[0]))
    x = noise(1, 16, 3, 5).double()
    module(x)
    small = module.query(module.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).numpy()
    expected = np.einsum(
        "yi,xj,bcij->bcyx", corner_to_corner(3, 6), corner_to_corner(5, 10), small
    ) / math.sqrt(2)
    assert np.abs(queries[0].numpy() - expected).max() < 1e-12


@torch.inference_mode()
def test_a_flat_map_stays_flat_except_where_neighbours_lie_outside() -> None:
    output = LdaAqu(16)(torch.ones(1, 16, 6, 7))
    assert torch.allclose(output[..., 1:-1, 1:-1], torch.ones(()), atol=1e-6)
    assert output[..., 0, :].max() < 0.9
    assert output[..., :, -1].max() < 0.9


def test_it_begins_without_shifts_and_learns_them() -> None:
    module = LdaAqu(16)
    module(noise(1, 16, 4, 5)).square().mean().backward()
    still = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    # What lies before the zero weights has no gradient in the first step; the weights themselves have.
    assert still == {"shift_conv.weight", "shift_norm.weight", "shift_norm.bias"}
    assert not module.shift.weight.any()
    assert not module.shift.bias.any()
    module = fill(module)
    module.zero_grad()
    module(noise(1, 16, 4, 5)).square().mean().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_positions_stay_in_float32_under_autocast() -> None:
    module = fill(LdaAqu(16))
    x = noise(1, 16, 24, 40)
    with torch.autocast("cpu", torch.bfloat16):
        grids = module.grids(module.project(x)[0])
        output = module(x)
    assert all(grid.dtype == torch.float32 for grid in grids)
    exact = module(x)
    # What is left is the rounding of features: well below what a pixel to the side would change.
    assert (output - exact).abs().mean() < 0.1 * exact.abs().mean()
    output.float().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 20}, "2 groups"),
        ({"channels": 16, "heads": 3}, "3 heads"),
        ({"channels": 16, "window": 2}, "odd"),
        ({"channels": 16, "scale": 1}, "at least 2"),
    ],
)
def test_what_it_does_not_take_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LdaAqu(**options)


def exported(module: nn.Module, x: Tensor, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its age
        torch.onnx.export(module, (x,), buffer, dynamo=False, opset_version=opset, input_names=["x"])  # type: ignore[arg-type]
    return onnx.load_model_from_string(buffer.getvalue())


@pytest.mark.parametrize("opset", [17, 20])
@torch.inference_mode()
def test_the_onnx_graph_is_static_and_agrees(opset: int) -> None:
    module = fill(LdaAqu(64, heads=2)).eval()
    x = noise(1, 64, 15, 22)
    graph = exported(module, x, opset)
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & {
        "Gather",
        "GatherND",
        "Shape",
        "Slice",
        "Range",
        "NonZero",
        "Loop",
        "If",
        "ScatterND",
        "Mod",
    }
    assert {"GridSample", "LayerNormalization"} <= operators
    # The window's positions are not stored for every pixel.
    weights = sum(p.numel() for p in module.parameters())
    assert graph.ByteSize() < 4 * weights + 40_000
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = module(x).numpy()
    assert np.abs(session.run(None, {"x": x.numpy()})[0] - expected).max() <= 1e-4


@torch.inference_mode()
def test_torch_export_captures_it() -> None:
    module = fill(LdaAqu(16)).eval()
    x = noise(1, 16, 5, 7)
    captured = torch.export.export(module, (x,), strict=False).module()
    assert torch.equal(captured(x), module(x))
    assert captured(x).shape == F.interpolate(x, scale_factor=2.0).shape
