"""What a processor makes of INT8: the rule, and that this processor and its runtimes do what the rule says of
them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeseg.bundle import Bundle
from edgeseg.devices.instructions import Processor
from edgeseg.devices.integers import integers, integers_here
from edgeseg.devices.machine import detect
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.onnxruntime.backend import OnnxRuntime, open_graph
from edgeseg.engines.openvino import OpenVino
from edgeseg.errors import Unsupported
from edgeseg.export.graph.dialects import dialect, write_dialect
from edgeseg.export.graph.editor import MICROSOFT, count_ops
from edgeseg.export.graph.shared_weights import share_weights
from edgeseg.specs import DIALECTS, Form, ImageSpec, IsrPlan, LabelSpace, Program
from processor import pretend
from qdq_graphs import QdqGraph, run
from tiny import tiny_bundle, tiny_precisions

AVX2 = ("sse4_1", "avx", "f16c", "fma", "avx2")


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor says that it has no VNNI."""
    pretend(monkeypatch, *AVX2)


@pytest.mark.parametrize(
    ("flags", "arch", "form", "by"),
    [
        (("avx2", "avx512f", "avx512_vnni"), "x86_64", "x86", "avx512_vnni"),
        (("avx2", "avx_vnni"), "AMD64", "x86", "avx_vnni"),
        (("avx2",), "x86_64", "x86_u8u8", ""),
        (("avx2", "avx512f", "avx512bw", "avx512vl"), "x86_64", "x86_u8u8", ""),
        (("sse4_1",), "i686", "x86_u8u8", ""),
        ((), "AMD64", "x86_u8u8", ""),
        (("asimd", "asimddp"), "aarch64", "arm", "asimddp"),
        (("asimd",), "aarch64", "arm", ""),
        ((), "arm64", "arm", ""),
        ((), "riscv64", "arm", ""),
    ],
)
def test_signed_times_unsigned_only_where_it_does_not_saturate(
    flags: tuple[str, ...], arch: str, form: str, by: str
) -> None:
    found = integers(Processor("", flags), arch)
    assert (found.form, found.adds_by) == (form, by)
    assert found.wrong == (("x86",) if form == "x86_u8u8" else ())
    assert form in DIALECTS


@pytest.mark.parametrize(
    ("flags", "unknown", "told"),
    [
        (("avx2", "avx_vnni"), ("amx_int8",), "INT8 can be faster than float on this processor, by avx_vnni"),
        (AVX2, (), "this processor has no VNNI: INT8 takes about as long as float here"),
        (
            AVX2,
            ("avx_vnni",),
            "whether this processor has VNNI is not known: INT8 may take as long as float here",
        ),
        ((), (), "whether this processor has VNNI is not known: INT8 may take as long as float here"),
        (("asimd", "asimddp"), (), "INT8 can be faster than float on this processor, by asimddp"),
        (("asimd",), (), "this processor has no dot products of bytes: INT8 may take as long as float here"),
    ],
)
def test_the_outlook_says_what_is_known(flags: tuple[str, ...], unknown: tuple[str, ...], told: str) -> None:
    outlook = integers(Processor("", flags, unknown), "x86_64").outlook
    assert outlook.startswith(told)
    assert ("AMD from Zen 4" in outlook) == ("can be faster" not in outlook)


@pytest.mark.parametrize("flags", [AVX2, ("avx2", "avx_vnni"), ("asimd", "asimddp")])
def test_the_runtime_takes_the_form_of_the_rule(flags: tuple[str, ...]) -> None:
    runtime = OnnxRuntime(replace(detect(), isa=flags))
    assert runtime.form_for("int8") == integers(Processor("", flags), "").form


def loud() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution and a product whose codes are as large as codes get: their sums leave 16 bits with the
    second term.
    """
    graph = QdqGraph(x=(1, 8, 6, 6))

    def largest(*shape: int) -> str:
        codes, steps = graph.constant(np.full(shape, 127), np.int8), graph.constant(np.full(8, 2.0**-9))
        return graph.add("DequantizeLinear", codes, steps, graph.constant(np.zeros(8), np.int8), axis=0)

    sizes = {"kernel_shape": [3, 3], "pads": [1] * 4}
    maps = graph.rounded(
        graph.add("Conv", graph.rounded("x"), largest(8, 8, 3, 3), graph.bias(8), **sizes), 1.0
    )
    rows = graph.add("Transpose", maps, perm=[0, 2, 3, 1])
    product = graph.add(
        "MatMul", graph.rounded(rows, 1.0), graph.add("Transpose", largest(8, 8), perm=[1, 0])
    )
    return graph.model(graph.add("Add", graph.bias(8), product)), {
        "x": np.full((1, 8, 6, 6), 3.97, np.float32)
    }


@pytest.mark.parametrize("form", DIALECTS)
def test_what_is_said_to_saturate_here_does_and_nothing_else(form: str) -> None:
    model, feed = loud()
    made = dialect(model, form)
    assert (count_ops(made)["QLinearConv"], count_ops(made)["MatMulIntegerToFloat"]) == (1, 1)
    exact = np.array_equal(run(made, feed, optimised=True), run(model, feed))
    assert exact == (form not in integers_here().wrong)


def test_the_canonical_form_is_exact_on_every_processor(tmp_path: Path) -> None:
    """Also where its kernels saturate unless they are told otherwise; and where they are told so without
    need.
    """
    model, feed = loud()
    canonical = program(model, tmp_path)
    (y,) = open_graph(str(canonical.onnx_path), canonical, optimise=True).run(None, feed)
    np.testing.assert_allclose(y, run(model, feed), rtol=1e-6)


@pytest.mark.usefixtures("avx2")
def test_without_vnni_the_canonical_form_is_set_up_for_it(tmp_path: Path) -> None:
    test_the_canonical_form_is_exact_on_every_processor(tmp_path)
    model, _ = loud()
    forms = [
        program(model, tmp_path),
        *(write_dialect(program(model, tmp_path), form, tmp_path / form) for form in DIALECTS),
    ]
    told = {form.form: _entry(form) for form in forms}
    assert told == {"qdq": "1", **dict.fromkeys(DIALECTS)}


def test_unsigned_weights_are_the_bytes_that_other_forms_hold(tmp_path: Path) -> None:
    canonical = program(loud()[0], tmp_path)
    signed, unsigned = (
        write_dialect(canonical, form, tmp_path / f"{form}.onnx")
        for form in (Form.ORT_X86, Form.ORT_X86_U8U8)
    )
    sizes = [
        share_weights(programs, tmp_path / str(n))[0].blobs
        for n, programs in enumerate([[signed], [signed, unsigned]])
    ]
    assert sizes[0][0].stat().st_size == sizes[1][0].stat().st_size
    made = onnx.load(unsigned.onnx_path)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(made).graph.value_info
    }
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    for operator, weight, zero in (("QLinearConv", 3, 5), ("MatMulIntegerToFloat", 1, 5)):
        (node,) = (node for node in made.graph.node if node.op_type == operator)
        assert kinds[node.input[weight]] == TensorProto.UINT8
        assert set(numpy_helper.to_array(constants[node.input[zero]]).reshape(-1)) == {128}


@pytest.mark.usefixtures("avx2")
def test_openvino_is_neither_engine_nor_judge_of_int8_without_vnni(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from edgeseg.export.parity.ladder import runtime_rung

    canonical = program(loud()[0], tmp_path)
    for refused in (OpenVino().compile, OpenVino().load):
        with pytest.raises(
            Unsupported, match="this processor has no VNNI, and without it openvino adds products"
        ):
            refused(canonical, tmp_path, {"threads": 1})  # type: ignore[operator]
    rung = runtime_rung(canonical, "openvino", canonical, [])
    assert rung.passed is None
    assert "16 bits, which saturate" in rung.skipped
    bundle: Bundle = tiny_bundle(tmp_path / "b.edgeseg", **tiny_precisions(tmp_path / "parts"))
    rows = build_level(bundle, runtimes=["openvino"], threads=1).choice.candidates
    (row,) = {
        row.reason: row for row in rows if (row.runtime, row.precision) == ("openvino", "int8")
    }.values()
    assert row.verdict == "not built"
    assert "edgeseg build BUNDLE --runtime onnxruntime" in row.reason
    assert "export again" not in row.reason


def test_openvino_saturates_where_it_is_said_to_and_only_there(tmp_path: Path) -> None:
    """On a processor that the rule trusts it is exact; on one that it does not, it would not have been."""
    openvino = pytest.importorskip("openvino")
    model, feed = loud()
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    exact = np.allclose(compiled(feed)[0], run(model, feed), rtol=1e-4)
    assert exact == (not integers_here().saturates)


@pytest.mark.parametrize(
    ("operator", "domain", "kind", "since"),
    [("OfTheFuture", MICROSOFT, TensorProto.FLOAT, None), ("Max", "", TensorProto.INT16, "1.24")],
)
def test_an_operator_that_this_runtime_lacks_is_told_with_what_helps(
    operator: str, domain: str, kind: int, since: str | None, tmp_path: Path
) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, kind, (3,)) for name in "xy")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x", "x"], ["y"], domain=domain)], "later", [x], [y]
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MICROSOFT, 1)]
    later = program(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path)
    with pytest.raises(Unsupported, match=r"onnxruntime [\d.]+ lacks what .* is made of") as caught:
        open_graph(str(later.onnx_path), later, optimise=True)
    told = caught.value.hint or ""
    assert told.endswith(
        f"install onnxruntime {since} or newer" if since else "pip install --upgrade onnxruntime"
    )
    assert told.startswith("edgeseg export RECIPE --force" if since else "pip")


def program(model: onnx.ModelProto, folder: Path) -> Program:
    """A canonical INT8 program of a graph; only its file and its form matter here."""
    onnx.save(model, folder / "qdq.onnx")
    labels = LabelSpace(("road",), ((0, 0, 0),))
    return Program(
        folder / "qdq.onnx", ImageSpec((32, 32)), labels, 1, IsrPlan(), "int8", "tiny", form=Form.QDQ
    )


def _entry(form: Program) -> str | None:
    """What a session of a form was told of the precision of x86."""
    session = open_graph(str(form.onnx_path), form, optimise=True)
    try:
        return str(session.get_session_options().get_session_config_entry("session.x64quantprecision"))
    except RuntimeError:
        return None
