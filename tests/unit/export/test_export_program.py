"""The exported program: what the file holds, and that it says what the torch model says."""

from __future__ import annotations

import collections
import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeseg.errors import BuildError, ParityError
from edgeseg.export.golden import golden_frames, golden_images
from edgeseg.export.graph.cleanup import clean, store_half
from edgeseg.export.graph.editor import count_ops
from edgeseg.export.parity.float import compare
from edgeseg.export.parity.thresholds import FP16, FP32, Thresholds
from edgeseg.export.program import export_program
from edgeseg.metrics import mask_agreement
from edgeseg.models import build_model
from edgeseg.models.eft import EfaBlock
from edgeseg.models.reference import TorchReference
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import Form, ImageSpec, ImageU8, IsrPlan, LabelSpace, Program
from edgeseg.synthetic.scene import Scene
from golden_rule import fill
from locations import REPOSITORY

SIZE_HW = (64, 128)
ISR = IsrPlan((2, 2, 1, 1), (2, 2, 2))
CONTROL_FLOW = {"Loop", "If", "Scan", "Range", "NonZero", "Shape", "SequenceAt"}
LEFTOVERS = {
    "Identity",
    "Dropout",
    "BatchNormalization",
    "ReduceMean",
    "Sqrt",
    "Pow",
}  # the last three: LayerNorm in pieces


def labels(count: int) -> LabelSpace:
    return LabelSpace(tuple(f"class{i}" for i in range(count)), tuple((i, i, i) for i in range(count)))


def model_of(arch: str, classes: int = 5, plan: IsrPlan | None = None) -> Segmentor:
    model = fill(build_model(arch, classes)).eval()
    if plan is not None:
        model.set_isr(plan)
    return model


def export(model: nn.Module, out: Path, **changes: Any) -> Program:
    arguments: dict[str, Any] = {
        "image": ImageSpec(SIZE_HW),
        "labels": labels(5),
        "mask_stride": 8,
        "arch": "edaformer_nano",
        "out": out,
    }
    return export_program(model, **{**arguments, **changes})


def images(size_hw: tuple[int, int] = SIZE_HW, count: int = 2) -> list[ImageU8]:
    """Street scenes, and noise: a program must not depend on what it sees."""
    noise = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    return [noise, *(Scene(seed, size_hw).frame(0)[0] for seed in range(count - 1))]


def infer(program: Program, image_rgb: ImageU8) -> np.ndarray[Any, Any]:
    import onnxruntime as ort

    pixels = image_rgb if program.image.layout == "HWC" else image_rgb.transpose(2, 0, 1)
    session = ort.InferenceSession(str(program.onnx_path), providers=["CPUExecutionProvider"])
    (mask,) = session.run(None, {"image": np.ascontiguousarray(pixels[np.newaxis])})
    return np.asarray(mask)


@pytest.fixture(scope="module")
def nano() -> Segmentor:
    return model_of("edaformer_nano")


@pytest.fixture(scope="module")
def program(nano: Segmentor, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return export(nano, tmp_path_factory.mktemp("program") / "model.onnx")


def test_the_file_is_a_static_graph_of_standard_operators(program: Program) -> None:
    graph = onnx.load(program.onnx_path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    (image,), (mask,) = graph.graph.input, graph.graph.output
    for tensor, name, shape in ((image, "image", (1, 64, 128, 3)), (mask, "mask", (1, 8, 16))):
        assert tensor.name == name
        assert tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert tuple(d.dim_value for d in tensor.type.tensor_type.shape.dim) == shape
    operators = collections.Counter(node.op_type for node in graph.graph.node)
    assert not CONTROL_FLOW & set(operators)
    assert not LEFTOVERS & set(operators)
    norms = [m for m in build_model("edaformer_nano", 5).modules() if isinstance(m, nn.LayerNorm)]
    assert operators["LayerNormalization"] == len(norms)
    assert operators["ArgMax"] == 1
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    assert str(REPOSITORY).encode() not in program.onnx_path.read_bytes(), "no path of this machine"


def test_the_record(program: Program) -> None:
    assert program.mask_shape == (8, 16)
    assert (program.precision, program.arch, program.isr) == ("float", "edaformer_nano", IsrPlan())
    assert Program.from_json(program.to_json(), program.onnx_path) == program


def test_the_answer_is_the_torch_models(program: Program, nano: Segmentor) -> None:
    reference = TorchReference(nano, program.image, program.mask_stride)
    report = compare(reference, program, images(), FP32)
    assert list(report["rungs"]) == ["graph", "optimised", "mask"]
    assert len(np.unique(infer(program, images()[0]))) > 1, "a constant mask would agree with anything"


def test_the_model_is_not_touched(tmp_path: Path) -> None:
    model = model_of("edaformer_nano").train()
    before = copy.deepcopy(model)
    export(model, tmp_path / "model.onnx")
    assert model.training
    assert str(model) == str(before)
    assert all(torch.equal(tensor, before.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_warning_and_the_same_bytes_again(program: Program, nano: Segmentor, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = export(nano, tmp_path / "model.onnx")
    assert again.onnx_path.read_bytes() == program.onnx_path.read_bytes()


def test_layouts_agree(program: Program, nano: Segmentor, tmp_path: Path) -> None:
    nchw = export(nano, tmp_path / "nchw.onnx", image=ImageSpec(SIZE_HW, layout="NCHW"))
    assert onnx.load(nchw.onnx_path).graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3
    for image in images():
        assert np.array_equal(infer(nchw, image), infer(program, image))


@pytest.mark.parametrize("mask_stride", [1, 2, 4, 16])
def test_mask_strides(nano: Segmentor, tmp_path: Path, mask_stride: int) -> None:
    program = export(nano, tmp_path / "model.onnx", mask_stride=mask_stride)
    assert infer(program, images()[0]).shape == (1, 64 // mask_stride, 128 // mask_stride)
    compare(TorchReference(nano, program.image, mask_stride), program, images(), FP32)


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_opsets(nano: Segmentor, tmp_path: Path, opset: int) -> None:
    program = export(nano, tmp_path / "model.onnx", opset=opset)
    graph = onnx.load(program.onnx_path)
    assert graph.opset_import[0].version == opset
    assert not CONTROL_FLOW & {node.op_type for node in graph.graph.node}
    compare(TorchReference(nano, program.image, 8), program, images(), FP32)


@pytest.mark.parametrize("plan", [ISR, IsrPlan((1, 1, 2, 2), (1, 2, 1))], ids=str)
def test_isr_plans(tmp_path: Path, plan: IsrPlan) -> None:
    model = model_of("edaformer_nano", plan=plan)
    program = export(model, tmp_path / "model.onnx")
    assert program.isr == plan
    reference = TorchReference(model, program.image, 8)
    compare(reference, program, images(), FP32)
    model.set_isr(IsrPlan())
    with pytest.raises(ParityError):
        compare(reference, program, images(), FP32)


@pytest.mark.parametrize(
    ("form", "convolutions"),
    [
        (Form.PLAIN, "fewer"),
        (Form.CPU_OPENVINO, "fewer"),
        (Form.CPU, "same"),
        (Form.GPU, "same"),
    ],
)
def test_every_form_says_the_same(
    program: Program, nano: Segmentor, tmp_path: Path, form: Form, convolutions: str
) -> None:
    other = export(nano, tmp_path / "other.onnx", form=form)
    default, counted = (
        sum(node.op_type == "Conv" for node in onnx.load(p.onnx_path).graph.node) for p in (program, other)
    )
    assert (counted < default) == (convolutions == "fewer")
    compare(TorchReference(nano, other.image, 8), other, images(), FP32)


def test_attention_is_cut_into_pieces_for_processors_alone(nano: Segmentor, tmp_path: Path) -> None:
    size_hw = (192, 384)
    forms = (Form.CPU, Form.GPU)
    programs = [
        export(nano, tmp_path / f"{form}.onnx", form=form, image=ImageSpec(size_hw)) for form in forms
    ]
    processor, gpu = (count_ops(onnx.load(program.onnx_path)) for program in programs)
    attentions = sum(isinstance(module, EfaBlock) for module in nano.modules())
    assert gpu["Softmax"] == attentions < processor["Softmax"]
    assert gpu["Split"] == 0 < processor["Split"]
    masks = [infer(program, images(size_hw)[0]) for program in programs]
    assert mask_agreement(*masks) >= FP32.mask_agreement


@pytest.mark.slow
def test_learned_upsampling_reads_pixels_on_a_gpu(tmp_path: Path) -> None:
    model = fill(build_model("edaformer_nano", 5, upsample="lda_aqu")).eval()
    for form, reads in (
        (Form.CPU, 0),
        (Form.GPU, 54),
    ):  # keys and values, nine neighbours, three maps that double
        program = export(model, tmp_path / f"{form}.onnx", form=form)
        assert count_ops(onnx.load(program.onnx_path))["GridSample"] == reads
        compare(TorchReference(model, program.image, 8), program, images(), FP32)


def test_a_model_that_the_rewrites_do_not_know(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))
    program = export(model, tmp_path / "model.onnx", mask_stride=1)
    compare(TorchReference(model, program.image, 1), program, images(), FP32)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [IsrPlan(), ISR], ids=str)
def test_the_reference_model(tmp_path: Path, plan: IsrPlan) -> None:
    model = model_of("edaformer_t", 19, plan)
    image = ImageSpec((128, 192))
    for weights, limits in (("fp32", FP32), ("fp16", FP16)):
        program = export(
            model,
            tmp_path / f"{weights}.onnx",
            image=image,
            labels=labels(19),
            arch="edaformer_t",
            weights=weights,
        )
        report = compare(TorchReference(model, image, 8), program, images(image.size_hw), limits)
        assert weights == "fp16" or report["rungs"]["graph"]["value"] * report["peak_logit"] <= 1e-4
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.52 * (tmp_path / "fp32.onnx").stat().st_size < 11e6


class TestHalfWeights:
    """Weights stored as float16: half the file, nearly the same answer."""

    def test_storage(self, program: Program, nano: Segmentor, tmp_path: Path) -> None:
        half = export(nano, tmp_path / "half.onnx", weights="fp16")
        graph = onnx.load(half.onnx_path)
        stored = {t.name: t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
        assert stored
        consumers = [node for node in graph.graph.node if set(node.input) & set(stored)]
        assert {node.op_type for node in consumers} == {"Cast"}, "no arithmetic in float16"
        assert len(consumers) == len(stored)
        for image in images():
            assert mask_agreement(infer(half, image), infer(program, image)) >= FP16.mask_agreement
        compare(TorchReference(nano, half.image, 8), half, images())  # the thresholds follow the storage

    def test_a_weight_beyond_float16_is_refused(self, program: Program) -> None:
        graph = onnx.load(program.onnx_path)
        weight = max(graph.graph.initializer, key=lambda t: np.prod(t.dims))
        weight.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1e6), weight.name)
        )
        with pytest.raises(BuildError, match="float16"):
            store_half(graph)


class TestRefusals:
    """What cannot be exported is a BuildError with a hint, and leaves no file."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"opset": 16}, "opset 16"),
            ({"opset": 21}, "opset 21"),
            ({"mask_stride": 3}, "no whole size"),
            ({"mask_stride": 0}, "no whole size"),
            ({"labels": labels(4)}, "5 classes, the label space 4"),
            ({"image": ImageSpec((48, 64), multiple_px=16), "mask_stride": 8}, "cannot run at 48x64"),
        ],
    )
    def test_arguments(self, nano: Segmentor, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(BuildError, match=message) as caught:
            export(nano, tmp_path / "model.onnx", **changes)
        assert caught.value.hint
        assert list(tmp_path.iterdir()) == []

    def test_a_plan_too_coarse_for_the_size(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="cannot run at 96x96") as caught:
            export(model_of("edaformer_nano", plan=ISR), tmp_path / "model.onnx", image=ImageSpec((96, 96)))
        assert "multiples of 64" in caught.value.hint

    def test_a_target_that_cannot_be_written(self, nano: Segmentor, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(BuildError, match="cannot be written"):
            export(nano, tmp_path / "file" / "model.onnx")

    def test_an_earlier_file_survives_a_failure(self, nano: Segmentor, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_text("earlier")
        with pytest.raises(BuildError):
            export(nano, tmp_path / "model.onnx", labels=labels(4))
        assert (tmp_path / "model.onnx").read_text() == "earlier"


class TestParity:
    def test_a_wrong_model_breaks_at_the_first_rung(self, program: Program, nano: Segmentor) -> None:
        other = copy.deepcopy(nano)
        with torch.no_grad():
            other.decoder.classifier.bias[0] += 1.0
        with pytest.raises(ParityError, match="rung 'graph'") as caught:
            compare(TorchReference(other, program.image, 8), program, images())
        rungs = caught.value.report["rungs"]
        assert not rungs["graph"]["passed"]
        assert rungs["graph"]["value"] == pytest.approx(1.0 / caught.value.report["peak_logit"], rel=0.05)

    def test_thresholds_can_be_given(self, program: Program, nano: Segmentor) -> None:
        with pytest.raises(ParityError):
            compare(TorchReference(nano, program.image, 8), program, images(), Thresholds(0.0, 1.0))

    def test_no_image(self, program: Program, nano: Segmentor) -> None:
        with pytest.raises(ValueError, match="needs an image"):
            compare(TorchReference(nano, program.image, 8), program, [])


def test_clean_keeps_a_no_op_that_is_the_output() -> None:
    helper = onnx.helper
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "y")]
    one = onnx.numpy_helper.from_array(np.float32(1), "one")
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Mul", ["a", "one"], ["b"]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    model = clean(helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], [one])))
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [
        ("Mul", ["x", "x"]),
        ("Identity", ["c"]),
    ]


class _Images:
    """A data set whose i-th image is filled with the value i."""

    labels = labels(2)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> tuple[ImageU8, np.ndarray[Any, Any]]:
        return np.full((40, 50, 3), index, np.uint8), np.zeros((40, 50), np.uint8)


class TestGolden:
    def test_images_are_spread_over_the_data_set(self) -> None:
        chosen = golden_images(_Images(100), 4, SIZE_HW)
        assert [name for name, _ in chosen] == ["golden_00", "golden_01", "golden_02", "golden_03"]
        assert [int(image[0, 0, 0]) for _, image in chosen] == [12, 37, 62, 87]
        assert {image.shape for _, image in chosen} == {(*SIZE_HW, 3)}

    def test_a_small_data_set_gives_all_it_has(self) -> None:
        assert [int(image[0, 0, 0]) for _, image in golden_images(_Images(3), 8, SIZE_HW)] == [0, 1, 2]
        with pytest.raises(ValueError, match="0 images"):
            golden_images(_Images(0), 8, SIZE_HW)

    def test_frames_hold_the_torch_models_masks(self, program: Program, nano: Segmentor) -> None:
        reference = TorchReference(nano, program.image, program.mask_stride)
        named = [(f"image{i}", image) for i, image in enumerate(images())]
        frames = golden_frames(reference, named, level=1)
        assert [(frame.name, frame.level) for frame in frames] == [("image0", 1), ("image1", 1)]
        for frame in frames:
            assert frame.mask.shape == program.mask_shape
            assert mask_agreement(frame.mask, infer(program, frame.image_rgb)[0]) >= FP32.mask_agreement
