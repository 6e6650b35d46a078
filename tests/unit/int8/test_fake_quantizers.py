"""Rounding to INT8: ONNX's arithmetic to the bit, and gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper
from torch import Tensor

from edgeseg.int8.fake import HIGH, FakeInt8, amax_of, scale_of

SCALES = st.floats(2.0**-40, 2.0**40, width=32)
CODES = arrays(np.float64, (4, 7), elements=st.integers(-300, 300).map(lambda half_steps: half_steps / 2))


@pytest.fixture(scope="module")
def runtime() -> ort.InferenceSession:
    """x, scale -> Q -> DQ, as ONNX Runtime computes it."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "qdq",
        [value("x", TensorProto.FLOAT, (4, 7)), value("s", TensorProto.FLOAT, ())],
        [value("y", TensorProto.FLOAT, (4, 7))],
        [helper.make_tensor("z", TensorProto.INT8, (), [0])],
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@given(amax=SCALES, codes=CODES, off=st.floats(0.999999, 1.000001))
def test_codes_and_values_are_those_of_onnx_runtime(
    runtime: ort.InferenceSession, amax: float, codes: npt.NDArray[np.float64], off: float
) -> None:
    """Also at ties, where the next float decides."""
    scale = scale_of(torch.tensor(amax))
    x = (codes * float(scale) * off).astype(np.float32)
    (expected,) = runtime.run(None, {"x": x, "s": scale.numpy()})
    assert np.array_equal(FakeInt8.apply(torch.from_numpy(x), torch.tensor(amax), -128).numpy(), expected)


@given(arrays(np.float32, 9, elements=SCALES))
def test_a_scale_comes_back_from_its_range_to_the_bit(amax: npt.NDArray[np.float32]) -> None:
    scale = scale_of(torch.from_numpy(amax))
    assert torch.equal(scale_of(amax_of(scale)), scale)


@given(
    arrays(np.float32, (3, 5), elements=st.floats(-1e3, 1e3, width=32)),
    arrays(np.float32, (3, 1), elements=SCALES),
)
def test_what_is_rounded_is_near_inside_the_range_at_its_edge_outside_and_stays(
    x: npt.NDArray[np.float32], amax: npt.NDArray[np.float32]
) -> None:
    values, ranges = torch.from_numpy(x), torch.from_numpy(amax)
    once = FakeInt8.apply(values, ranges, -HIGH)
    assert torch.equal(FakeInt8.apply(once, ranges, -HIGH), once)
    inside = values.abs() <= ranges
    tolerance = scale_of(ranges) * 0.50001
    assert ((once - values).abs() <= tolerance)[inside].all()
    assert ((once.abs() - ranges).abs() <= tolerance)[~inside].all()
    assert torch.equal(FakeInt8.apply(-values, ranges, -HIGH), -once)


def test_weights_are_narrow_activations_are_not() -> None:
    x, amax = torch.tensor([-200.0, 200.0]), torch.tensor(127.0)
    assert FakeInt8.apply(x, amax, -HIGH).tolist() == [-127, 127]
    assert FakeInt8.apply(x, amax, -HIGH - 1).tolist() == [-128, 127]


def test_gradients_pass_inside_and_stop_outside() -> None:
    x = torch.tensor([-1.3, -1.0, -0.25, 0.0, 0.7, 1.0, 1.3], requires_grad=True)
    FakeInt8.apply(x, torch.tensor(1.0), -HIGH).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_the_gradient_of_a_range_is_lsqs(shape: tuple[int, ...]) -> None:
    """Inside round(v) - v, outside the bound, summed over what shares the scale, times 1 / sqrt(N 127)."""
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    amax = torch.full(shape, 1.5, requires_grad=True)
    weight = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    (FakeInt8.apply(x, amax, -HIGH) * weight).sum().backward()
    at = x / (1.5 / HIGH)
    slope = torch.where(at.abs() <= HIGH + 0.5, at.round() - at, at.sign() * HIGH)
    count = x.numel() / amax.numel()
    expected: Tensor = (weight * slope).sum_to_size(shape) / HIGH / (count * HIGH) ** 0.5
    assert amax.grad is not None
    assert torch.allclose(amax.grad, expected, rtol=1e-4)


def test_a_learned_range_learns() -> None:
    """Descent on the error of rounding brings a range that clips far too much back to where clipping and
    rounding balance.
    """
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    amax = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([amax], 0.05)
    errors = []
    for _ in range(200):
        error = (FakeInt8.apply(x, amax, -HIGH - 1) - x).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert errors[-1] < 0.01 * errors[0]
    assert 2.5 < amax.item() < 5.0
