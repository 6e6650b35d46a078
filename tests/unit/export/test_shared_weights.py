"""Programs that share their weights: stored once, answering as before, wherever the folder goes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle.graph_files import external_files
from edgeseg.engines import table
from edgeseg.errors import BuildError
from edgeseg.export.graph.cleanup import store_half
from edgeseg.export.graph.shared_weights import ALIGN_BYTES, MIN_BYTES, WEIGHTS, share_weights
from edgeseg.export.parity.float import compare
from edgeseg.export.program import Weights, export_program
from edgeseg.models import build_model
from edgeseg.models.reference import TorchReference
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import ImageSpec, IsrPlan, LabelSpace, Program
from golden_rule import fill
from tiny import tiny_program

SIZE_HW = (64, 128)
PLANS = (IsrPlan(), IsrPlan((2, 2, 1, 1), (2, 2, 2)))
LABELS = LabelSpace(tuple("abcde"), ((0, 0, 0),) * 5)


def export_levels(
    arch: str, folder: Path, plans: Sequence[IsrPlan] = PLANS, weights: Weights = "fp32"
) -> tuple[Segmentor, list[Program]]:
    model = fill(build_model(arch, 5)).eval()
    programs = []
    for index, plan in enumerate(plans):
        model.set_isr(plan)
        out = folder / f"{arch}-{weights}-{index}.onnx"
        programs.append(
            export_program(
                model,
                image=model.image_spec(SIZE_HW),
                labels=LABELS,
                mask_stride=8,
                arch=arch,
                out=out,
                weights=weights,
            )
        )
    return model, programs


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmentor, list[Program]]:
    return export_levels("edaformer_nano", tmp_path_factory.mktemp("nano"))


def located(program: Program) -> dict[str, dict[str, str]]:
    """Tensor -> where its values lie, of those that lie outside of the graph."""
    graph = onnx.load(program.onnx_path, load_external_data=False).graph
    return {t.name: {e.key: e.value for e in t.external_data} for t in graph.initializer if t.external_data}


def weighted(path: Path, *tensors: TensorProto) -> Program:
    """`tiny_program` with further tensors that nothing reads."""
    program = tiny_program(path)
    model = onnx.load(path)
    model.graph.initializer.extend(tensors)
    onnx.save(model, path)
    return program


def test_levels_need_the_weights_of_one(nano: tuple[Segmentor, list[Program]], tmp_path: Path) -> None:
    _, programs = nano
    shared = share_weights(programs, tmp_path / "all")
    (alone,) = share_weights(programs[:1], tmp_path / "one")
    assert len(programs) > 1
    assert (tmp_path / "all" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()
    assert [program.isr for program in shared] == list(PLANS)
    assert {program.blobs for program in shared} == {(tmp_path / "all" / WEIGHTS,)}
    assert located(alone)
    for program in shared:
        assert external_files(program.onnx_path.read_bytes()) == {WEIGHTS}
        for place in located(program).values():
            assert place["location"] == WEIGHTS
            assert int(place["offset"]) % ALIGN_BYTES == 0
            assert int(place["length"]) >= MIN_BYTES - 200


def test_programs_are_the_same_and_their_files_untouched(
    nano: tuple[Segmentor, list[Program]], tmp_path: Path
) -> None:
    _, programs = nano
    before = [program.onnx_path.read_bytes() for program in programs]
    for old, new in zip(programs, share_weights(programs, tmp_path), strict=True):
        expected, found = onnx.load(old.onnx_path), onnx.load(new.onnx_path)
        assert expected.graph.node == found.graph.node
        for one, other in zip(expected.graph.initializer, found.graph.initializer, strict=True):
            assert (one.name, one.data_type, one.dims) == (other.name, other.data_type, other.dims)
            np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    assert [program.onnx_path.read_bytes() for program in programs] == before


def test_every_level_answers_as_torch_does_at_its_plan_and_anywhere(
    nano: tuple[Segmentor, list[Program]], tmp_path: Path
) -> None:
    model, programs = nano
    shared = share_weights(programs, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    backend, options = table.backend("onnxruntime"), {"threads": 1}
    for index, (program, plan) in enumerate(zip(shared, PLANS, strict=True)):
        moved = Program.from_json(program.to_json(), tmp_path / "there" / program.onnx_path.name)
        model.set_isr(plan)
        reference = TorchReference(model, moved.image, 8)
        compare(reference, moved, [image])
        folder = tmp_path / f"engine{index}"
        folder.mkdir()
        files = backend.compile(moved, folder, options)
        with backend.load(moved, files, options) as session:
            assert (session.infer(image) == reference.infer(image)).mean() > 0.999


def test_half_weights_are_shared_too(nano: tuple[Segmentor, list[Program]], tmp_path: Path) -> None:
    halves = []
    for index, program in enumerate(nano[1]):
        graph = onnx.load(program.onnx_path)
        store_half(graph)
        onnx.save(graph, tmp_path / f"{index}.onnx")
        halves.append(replace(program, onnx_path=tmp_path / f"{index}.onnx"))
    shared = share_weights(halves, tmp_path / "shared")
    (alone,) = share_weights(halves[:1], tmp_path / "one")
    assert shared[0].blobs[0].read_bytes() == alone.blobs[0].read_bytes()
    types = {tensor.name: tensor.data_type for tensor in onnx.load(alone.onnx_path).graph.initializer}
    assert TensorProto.FLOAT16 in {types[name] for name in located(alone)}


def test_equal_bytes_are_stored_once_whatever_they_are(tmp_path: Path) -> None:
    ones = np.ones((16, 64), np.float32)
    same = [
        numpy_helper.from_array(ones, "a"),
        numpy_helper.from_array(ones.reshape(64, 16), "b"),
        numpy_helper.from_array(ones.view(np.int32), "c"),
        helper.make_tensor("d", TensorProto.FLOAT, (1024,), ones.ravel().tolist()),  # not as raw bytes
    ]
    other = numpy_helper.from_array(2 * ones, "e")
    few = numpy_helper.from_array(np.ones(8, np.float32), "few")
    programs = [weighted(tmp_path / "a.onnx", *same), weighted(tmp_path / "b.onnx", other, few, same[0])]
    first, second = share_weights(programs, tmp_path / "shared")
    assert {name: int(place["offset"]) for name, place in located(first).items()} == dict.fromkeys("abcd", 0)
    assert {name: int(place["offset"]) for name, place in located(second).items()} == {
        "a": 0,
        "e": ALIGN_BYTES,
    }
    assert (tmp_path / "shared" / WEIGHTS).stat().st_size == ALIGN_BYTES + ones.nbytes


def test_sizes_stay_in_the_graph_however_many(tmp_path: Path) -> None:
    """Shape inference cannot read them elsewhere: attention at 1024x1024 is split into 256 pieces."""
    pieces = MIN_BYTES // 4
    model = onnx.load(
        weighted(tmp_path / "a.onnx", numpy_helper.from_array(np.ones((16, 64), np.float32), "a")).onnx_path
    )
    graph, names = model.graph, [f"piece{i}" for i in range(pieces)]
    graph.initializer.append(numpy_helper.from_array(np.ones(pieces, np.float32), "row"))
    graph.initializer.append(numpy_helper.from_array(np.ones(pieces, np.int64), "sizes"))
    graph.node.insert(0, helper.make_node("Split", ["row", "sizes"], names, axis=0))
    program = tiny_program(tmp_path / "b.onnx")
    program.onnx_path.write_bytes(model.SerializeToString())
    (shared,) = share_weights([program], tmp_path / "shared")
    assert located(shared).keys() == {"a", "row"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written"):
        share_weights([tiny_program(tmp_path / "tiny.onnx")], tmp_path / "file" / "folder")


def test_openvino_finds_them_too(nano: tuple[Segmentor, list[Program]], tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model, programs = nano
    *_, program = share_weights(programs, tmp_path)
    model.set_isr(program.isr)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    (mask,) = openvino.Core().compile_model(program.onnx_path, "CPU", settings)({0: image[None]}).values()
    assert (mask[0] == TorchReference(model, ImageSpec(SIZE_HW), 8).infer(image)).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_three_levels_of_a_real_model(weights: Weights, tmp_path: Path) -> None:
    plans = (*PLANS, IsrPlan((2, 2, 2, 2), (2, 2, 2)))
    _, programs = export_levels("edaformer_t", tmp_path, plans, weights)
    share_weights(programs, tmp_path / "shared")
    size = sum(file.stat().st_size for file in (tmp_path / "shared").iterdir())
    assert size < 1.15 * programs[0].onnx_path.stat().st_size
