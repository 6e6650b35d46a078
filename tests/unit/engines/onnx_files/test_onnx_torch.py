"""ONNX programs as torch modules: read without the onnx package, and equal to what ONNX Runtime computes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseg.engines.onnx_files.graph import read_graph
from edgeseg.engines.onnx_files.quantizers import amax_of
from edgeseg.specs import Form, ImageSpec, LabelSpace, Program
from edgeseg.torch_trt.program import TorchProgram, round_to_int8
from tiny import outside_weights, tiny_image, tiny_mask, tiny_program

LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
SIZE = (64, 128)


def module_of(program: Program) -> TorchProgram:
    graph = read_graph(program.onnx_path.read_bytes(), program.onnx_path.parent)
    return TorchProgram(graph, round_to_int8).eval()


def by_onnxruntime(path: Path, image: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


@cache
def exported(name: str, folder: Path, **options: str) -> Program:
    """A model as the TensorRT rows get it."""
    from edgeseg.export.program import export_program
    from edgeseg.models.catalog import build_model
    from golden_rule import fill

    model, image, out = fill(build_model(name, 5, **options)).eval(), ImageSpec(SIZE), folder / f"{name}.onnx"
    return export_program(model, image=image, labels=LABELS, mask_stride=1, arch=name, out=out, form=Form.GPU)


def same(program: Program, share: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, program.image.input_shape, np.uint8)
    with torch.no_grad():
        mask = module_of(program)(torch.from_numpy(image))
    assert mask.dtype == torch.uint8
    wanted = by_onnxruntime(program.onnx_path, image)
    assert np.unique(wanted).size > 1
    assert np.mean(mask.numpy() == wanted) >= share


@pytest.mark.parametrize("layout", ["HWC", "NCHW"])
def test_a_tiny_program(layout: str, tmp_path: Path) -> None:
    program = outside_weights(tiny_program(tmp_path / "tiny.onnx", layout))
    image = tiny_image()
    pixels = image if layout == "HWC" else image.transpose(2, 0, 1)
    mask = module_of(program)(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    np.testing.assert_array_equal(mask[0], tiny_mask(image))


@pytest.mark.slow
def test_int8_and_half(tmp_path: Path) -> None:
    """An INT8 program is the quantized model to the bit, and nearly so with half precision between its
    integers.
    """
    from edgeseg.export.graph.half import write_half
    from edgeseg.export.onnx_qdq import export_qdq
    from edgeseg.models.reference import TorchReference
    from quantized import quantized_model

    quantized = quantized_model("segformer_nano", (32, 64))
    program = export_qdq(quantized, mask_stride=1, out=tmp_path / "int8.onnx")
    image = np.random.default_rng(0).integers(0, 256, program.image.input_shape, np.uint8)
    wanted = TorchReference(quantized.model, quantized.image, 1).infer(image[0])
    assert np.unique(wanted).size > 1
    with torch.no_grad():
        mask, half = (
            module_of(one)(torch.from_numpy(image))[0]
            for one in (program, write_half(program, tmp_path / "h.onnx"))
        )
    np.testing.assert_array_equal(mask, wanted)
    assert np.mean(half.numpy() == wanted) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("edaformer_nano", {}),
        ("segformer_nano", {}),
        ("vwformer_nano", {}),
        ("repsep_nano", {}),
        ("segformer_mobile_nano", {"upsample": "lda_aqu"}),
    ],
)
def test_every_family(name: str, options: dict[str, str], tmp_path: Path) -> None:
    program = exported(name, tmp_path, **options)
    same(program, 0.9999)
    graph, wanted = read_graph(program.onnx_path.read_bytes(), tmp_path), onnx.load(program.onnx_path).graph
    nodes = [node for node in wanted.node if node.op_type != "Constant"]
    assert [(n.operator, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.op_type, (*n.input,), (*n.output,)) for n in nodes
    ]
    for tensor in wanted.initializer:
        np.testing.assert_array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor))


def test_torch_export_takes_it(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    image = torch.from_numpy(tiny_image())[None]
    exported_program = torch.export.export(module_of(program), (image,), strict=False)
    np.testing.assert_array_equal(exported_program.module()(image)[0], tiny_mask(tiny_image()))


@given(
    scale=st.floats(2**-26, 2**13, width=32).map(np.float32),
    steps=st.integers(-140, 140),
    narrow=st.booleans(),
)
def test_rounding_is_quantize_linears(scale: np.float32, steps: int, narrow: bool) -> None:
    given_scale = np.float32(scale * np.float32(127)) / np.float32(127)  # as scales come about
    amax = amax_of(np.asarray(given_scale))
    assert amax.dtype == np.float32 and amax / np.float32(127) == given_scale
    x = np.asarray([steps * given_scale, (steps + 0.5) * given_scale], np.float32)
    codes = np.clip(np.round(x / given_scale), -127 if narrow else -128, 127)
    found = round_to_int8(torch.from_numpy(x), torch.from_numpy(amax), narrow)
    np.testing.assert_array_equal(found, (codes * given_scale).astype(np.float32))


@settings(max_examples=20)
@given(channels=st.integers(1, 5), rest=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_a_scale_for_each_slice_of_axis_0(channels: int, rest: list[int]) -> None:
    x = torch.randn(channels, *rest, generator=torch.Generator().manual_seed(channels))
    amax = torch.arange(1.0, channels + 1) / 10
    apart = torch.stack([round_to_int8(part, value, True) for part, value in zip(x, amax, strict=True)])
    torch.testing.assert_close(round_to_int8(x, amax, True), apart, rtol=0, atol=0)


def graph_of(nodes: list[onnx.NodeProto], *constants: tuple[str, np.ndarray], opset: int = 19) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, 2, 2))
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, 2, 2, 2))
    graph = helper.make_graph(
        nodes, "g", [image], [mask], [numpy_helper.from_array(value, name) for name, value in constants]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


SCALE, ZERO = ("scale", np.asarray(0.5, np.float32)), ("zero", np.asarray(0, np.int8))
QUANTIZE = helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["codes"], "q")
DEQUANTIZE = helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["mask"], "dq")


def one(operator: str, *constants: np.ndarray, opset: int = 19, **attributes: object) -> bytes:
    """A graph of one operator on the image and constants."""
    names = [f"c{place}" for place in range(len(constants))]
    node = helper.make_node(operator, ["image", *names], ["mask"], "it", **attributes)
    return graph_of([node], *zip(names, constants, strict=True), opset=opset)


def computed(operator: str, *cast: int) -> list[onnx.NodeProto]:
    """An operator whose second input comes from the image."""
    return [
        helper.make_node("Cast", ["image"], ["second"], to=cast[0]),
        helper.make_node(operator, ["image", "second"], ["mask"], "it"),
    ]


KERNEL = np.ones((1, 2, 1, 1), np.float32)
REFUSED = {
    "an operator": (one("Frobnicate"), "no torch form of Frobnicate"),
    "an operator of somebody's own": (one("Relu", domain="com.example"), "no torch form of com.example.Relu"),
    "an older opset": (one("Relu", opset=13), "opset 13"),
    "a newer opset": (one("Relu", opset=22), "opset 22"),
    "an attribute": (one("Softmax", axis=1, temperature=2.0), "Softmax it with temperature 2"),
    "another resize": (
        one("Resize", np.ones(4, np.float32), np.ones(4, np.float32), mode="cubic"),
        "with mode cubic",
    ),
    "a resize by default": (
        one("Resize", np.ones(4, np.float32), np.ones(4, np.float32)),
        "no torch form of Resize it",
    ),
    "a resize of channels": (
        one("Resize", np.ones(0, np.float32), np.asarray([1, 2, 1, 1], np.float32), mode="linear"),
        "no torch form of Resize it",
    ),
    "another padding": (one("Pad", np.zeros(8, np.int64), mode="reflect"), "with mode reflect"),
    "windows over the border": (one("AveragePool", kernel_shape=[2, 2], ceil_mode=1), "with ceil_mode 1"),
    "padding to a size": (one("Conv", KERNEL, auto_pad="SAME_UPPER"), "with auto_pad SAME_UPPER"),
    "padding at one end": (one("Conv", KERNEL, pads=[0, 0, 1, 1]), "no torch form of Conv it"),
    "sizes that are computed": (
        graph_of(computed("Reshape", TensorProto.INT64)),
        "Reshape it: what it does depends on the image",
    ),
    "integers that go on": (
        graph_of([QUANTIZE, helper.make_node("Relu", ["codes"], ["mask"])], SCALE, ZERO),
        "the same way",
    ),
    "another scale": (
        graph_of(
            [QUANTIZE, helper.make_node("DequantizeLinear", ["codes", "two", "zero"], ["mask"])],
            SCALE,
            ZERO,
            ("two", KERNEL),
        ),
        "the same way",
    ),
    "an offset": (
        graph_of([QUANTIZE, DEQUANTIZE], SCALE, ("zero", np.asarray(3, np.int8))),
        "symmetric int8",
    ),
    "unsigned": (
        graph_of([QUANTIZE, DEQUANTIZE], SCALE, ("zero", np.asarray(0, np.uint8))),
        "symmetric int8",
    ),
    "unsigned, unsaid": (
        graph_of(
            [helper.make_node(n.op_type, [*n.input[:2]], [*n.output]) for n in (QUANTIZE, DEQUANTIZE)], SCALE
        ),
        "symmetric int8",
    ),
    "a scale for each column": (
        graph_of([QUANTIZE, DEQUANTIZE], ("scale", np.ones(2, np.float32)), ("zero", np.zeros(2, np.int8))),
        "along axis 0",
    ),
    "integers from elsewhere": (
        graph_of(
            [helper.make_node("Cast", ["image"], ["codes"], to=TensorProto.INT8), DEQUANTIZE], SCALE, ZERO
        ),
        "what nothing quantized",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_take(name: str) -> None:
    model, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        TorchProgram(read_graph(model, Path()), round_to_int8)(torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"value": numpy_helper.from_array(np.ones((2, 1), np.float16))}, np.ones((2, 1), np.float16)),
        ({"value_float": 0.1}, np.float32(0.1)),
        ({"value_floats": [0.5, 0.0]}, np.asarray([0.5, 0], np.float32)),
        ({"value_int": -3}, np.int64(-3)),
        ({"value_ints": [-(2**63), 0, 2**63 - 1]}, np.asarray([-(2**63), 0, 2**63 - 1])),
    ],
)
def test_constants(attributes: dict[str, object], wanted: np.ndarray) -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], **attributes),
        helper.make_node("Relu", ["image"], ["mask"]),
    ]
    found = read_graph(graph_of(nodes), Path()).constants["k"]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_a_scale_of_one_element_is_for_the_whole_tensor() -> None:
    model = graph_of(
        [QUANTIZE, DEQUANTIZE], ("scale", np.asarray([0.5], np.float32)), ("zero", np.zeros(1, np.int8))
    )
    x = torch.tensor([0.2, 0.3, -70.0, 70.0]).repeat(2).reshape(1, 2, 2, 2)
    found = TorchProgram(read_graph(model, Path()), round_to_int8)(x)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, -64.0, 63.5]).repeat(2).reshape(1, 2, 2, 2))


def test_int8_needs_something_that_rounds() -> None:
    with pytest.raises(ValueError, match="nothing rounds to INT8"):
        TorchProgram(read_graph(graph_of([QUANTIZE, DEQUANTIZE], SCALE, ZERO), Path()))


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_what_is_no_model(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_graph(content, Path())


@settings(max_examples=30)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_model_cut_short(cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tiny_program(tmp_path_factory.mktemp("p") / "tiny.onnx").onnx_path.read_bytes()
    try:
        graph = read_graph(whole[: int(cut * len(whole))], Path())
    except ValueError:
        return
    assert graph.nodes  # the cut fell between two fields behind the graph


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_model_with_one_byte_changed(
    place: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(tiny_program(tmp_path_factory.mktemp("p") / "tiny.onnx").onnx_path.read_bytes())
    content[int(place * len(content))] = value
    try:
        assert read_graph(bytes(content), Path()).nodes
    except (ValueError, OSError) as error:
        assert str(error)
