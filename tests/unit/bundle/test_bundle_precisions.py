"""A bundle with float and INT8 programs: forms, golden frames and gates of each precision, and which engine
is found.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from choosing import runtimes
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.bundle.golden import GoldenFrame
from edgeseg.bundle.manifest import Manifest
from edgeseg.cli.main import run
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.open import find_engine, open_session, verify_engines
from edgeseg.errors import BundleError, DataError, GateFailed, RecipeError
from edgeseg.pipeline.export import quantized_levels
from edgeseg.recipe.load import find_recipe, load_recipe
from edgeseg.specs import Form, ImageU8, IsrPlan, MaskU8, Program
from edgeseg.testing.fakes import FakeBackend
from tiny import RECIPE, tiny_bundle, tiny_image, tiny_mask, tiny_precisions, tiny_program

QUANT = "quant: {calibration: {images: x}, min_coverage: 0.9, max_miou_drop: 0.005, qat: null}"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    recipe = RECIPE.replace("quant: null", QUANT)
    return tiny_bundle(tmp_path / "two.edgeseg", recipe_text=recipe, **tiny_precisions(tmp_path))


def wrong(image: ImageU8) -> MaskU8:
    mask: MaskU8 = 1 - tiny_mask(image)
    return mask


def test_a_form_that_is_missing_falls_back_to_the_precisions_own(bundle: Bundle) -> None:
    forms = {form: bundle.program(0, "int8", form).form for form in (None, "qdq", "x86", "arm", "openvino")}
    assert forms == {None: "qdq", "qdq": "qdq", "x86": "x86", "arm": "arm", "openvino": "qdq"}
    assert len({bundle.program(0, "int8", form).onnx_path for form in forms}) == 3
    assert bundle.program().form == "onnxruntime"
    assert bundle.program(form=Form.ORT_X86).form == "onnxruntime"


def test_each_runtime_gets_its_form_of_each_precision(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = [
        FakeBackend("onnxruntime", tiny_mask, int8_form=Form.ORT_X86),
        FakeBackend("other", tiny_mask, int8_form="ghost"),
    ]
    runtimes(monkeypatch, *backends)
    made = build_level(bundle, threads=1)
    assert [[(got["precision"], got["form"]) for got in backend.compiled] for backend in backends] == [
        [("float", "onnxruntime"), ("int8", "x86")],
        [("float", "onnxruntime"), ("int8", "qdq")],
    ]
    hints = {(row.runtime, row.precision): row.hint for row in made.choice.candidates if row.hint}
    lacks = "tiny was exported without what other wants: int8 laid out for ghost"
    told = f"{lacks}; write - runtime: other under targets in the recipe, and export again"
    assert hints == {("other", "float"): told, ("other", "int8"): told}


def test_a_bundle_that_is_older_than_a_processors_form_runs_in_the_canonical_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend("onnxruntime", tiny_mask, int8_form=Form.ORT_X86_U8U8)
    runtimes(monkeypatch, backend)
    made = build_level(bundle, threads=1)
    assert [got["form"] for got in backend.compiled] == ["onnxruntime", "qdq"]
    lacks = "tiny was exported without what onnxruntime wants: int8 laid out for x86_u8u8"
    told = f"{lacks}; edgeseg export RECIPE writes it now, whatever the targets; until then the qdq form runs"
    assert {row.hint for row in made.choice.candidates} == {told}


def test_an_engine_is_held_to_the_golden_frames_of_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantized model says the opposite of the float model here, and so must its engine."""
    parts = tiny_precisions(tmp_path)
    parts["golden"] = [
        frame if frame.precision == "float" else frame._replace(mask=wrong(frame.image_rgb))
        for frame in parts["golden"]
    ]
    bundle = tiny_bundle(tmp_path / "b.edgeseg", **parts)
    runtimes(monkeypatch, FakeBackend("onnxruntime", {"float": tiny_mask, "int8": wrong}))
    made = build_level(bundle, threads=1)
    assert [row.measurements["mask_agreement"] for row in made.choice.candidates] == [{"x": 1.0}, {"x": 1.0}]
    assert set(verify_engines(open_bundle(bundle.path))) == {f"level 0, onnxruntime {made.engine.kind}"}
    runtimes(monkeypatch, FakeBackend("onnxruntime", {"float": tiny_mask, "int8": tiny_mask}))
    with pytest.raises(GateFailed, match="int8 engine"):
        build_engine(bundle, precision="int8", threads=1, force=True)


def test_engines_by_precision(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="holds no int8 engine of onnxruntime for level 0 yet"):
        find_engine(bundle, 0, "onnxruntime", "int8")
    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask))
    made = build_level(bundle, threads=1)
    assert find_engine(bundle) == made.engine
    for precision in ("float", "int8"):
        assert find_engine(bundle, precision=precision).precision == precision  # type: ignore[arg-type]
        with open_session(bundle, precision=precision) as session:  # type: ignore[arg-type]
            assert session.program.precision == precision
    with pytest.raises(BundleError, match="has no int8 program at level 0"):
        find_engine(tiny_bundle(bundle.path.parent / "float.edgeseg"), precision="int8")


@pytest.mark.parametrize(("int8_miou", "verdict"), [(0.696, "passed"), (0.694, "refused")])
def test_int8_may_lose_what_the_quant_section_allows(
    int8_miou: float, verdict: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask))
    figures = {"float": 0.70, "int8": int8_miou}
    made = build_level(bundle, threads=1, accuracy=lambda session: figures[session.program.precision])
    row = made.choice.candidates[1]
    assert (row.verdict in ("passed", "default")) == (verdict == "passed")
    if verdict == "refused":
        assert row.verdict == "refused"
        assert "quant.max_miou_drop is 0.005" in row.reason
        assert (
            row.hint
            == "onnxruntime int8: not packed; calibrate again, or train with the quantizers in force: edgeseg"
            " quantize RECIPE"
        )


def test_a_level_on_the_scales_of_another_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, level = "1,1,1,1-1,1,1", "2,2,1,1-2,2,2"
    facts = {"isr": level, "calibrated_at": home, "calibration": {"isr": [home]}, "coverage": {"share": 0.5}}
    told = {"levels": [facts]}
    bundle = tiny_bundle(tmp_path / "b.edgeseg", **tiny_precisions(tmp_path), reports={"quantization": told})
    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask))
    figures = {"float": 0.70, "int8": 0.60}
    made = build_level(bundle, threads=1, accuracy=lambda session: figures[session.program.precision])
    assert made.engine.precision == "float"
    assert (
        "edgeseg quantize RECIPE --level 1,1,1,1-1,1,1 --level 2,2,1,1-2,2,2"
        in made.choice.candidates[1].hint
    )


def test_programs_and_golden_frames_that_do_not_belong_together(tmp_path: Path) -> None:
    parts = tiny_precisions(tmp_path)
    frame = parts["golden"][0]
    cases: dict[str, dict[str, Any]] = {
        "every program needs a golden frame": {"golden": [frame]},
        "no int8 program at level 0": {"programs": [tiny_program(tmp_path / "f.onnx")]},
        "int8 program at ISR 1,1,1,1-1,1,1 is not there in the form qdq": {
            "programs": [p for p in parts["programs"] if p.form != "qdq"]
        },
    }
    for said, changes in cases.items():
        with pytest.raises(ValueError, match=said):
            tiny_bundle(tmp_path / "t.edgeseg", **{**parts, **changes})


def test_real_runtime_and_command_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["build", str(bundle.path), "--threads", "1", "--runtime", "onnxruntime", "--json"]
    assert run(line) == 0
    (level,) = json.loads(capsys.readouterr().out)["engines"]
    assert [row["precision"] for row in level["candidates"]] == ["float", "int8"]
    default = next(row["precision"] for row in level["candidates"] if row["verdict"] == "default")
    for precision in ("float", "int8", None):
        asked = ["--precision", precision] if precision else []
        found = ["run", str(bundle.path), "--source", "synthetic://64x32@5?frames=3", "--json", *asked]
        assert run(found) == 0
        assert json.loads(capsys.readouterr().out)["precision"] == (precision or default)
    floats = str(tiny_bundle(tmp_path / "f.edgeseg").path)
    assert run(["run", floats, "--source", "synthetic://64x32@5", "--precision", "int8"]) == 6
    assert "no int8 program at level 0" in capsys.readouterr().err
    assert run(["bundle", "show", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("qdq", "x86", "arm", "int8"))


def test_the_shipped_form_of_a_manifest_without_precisions_still_opens(tmp_path: Path) -> None:
    """Golden frames of earlier bundles do not name a precision: they are the float model's."""
    program = tiny_program(tmp_path / "tiny.onnx")
    older = {name: value for name, value in program.to_json().items() if name != "form"}
    assert Program.from_json(older, program.onnx_path).form == "onnxruntime"
    bundle = tiny_bundle(tmp_path / "b.edgeseg")
    data = bundle.manifest.model_dump(mode="json")
    for frame in data["golden"]:
        del frame["precision"]
    frames = type(bundle.manifest).model_validate_json(json.dumps(data)).golden
    assert {frame.precision for frame in frames} == {"float"}
    np.testing.assert_array_equal(next(bundle.golden()).image_rgb, tiny_image(0))


def test_what_a_quant_section_asks_of_an_export(tmp_path: Path) -> None:
    quantizing = load_recipe(find_recipe("edaformer_nano_synthetic_int8"))
    not_quantizing = quantizing.model_copy(update={"quant": None})
    never_opened: Any = None
    with pytest.raises(DataError, match="there is no quantized checkpoint") as caught:
        quantized_levels(quantizing, never_opened, [], [IsrPlan()])
    assert caught.value.hint.startswith("edgeseg quantize edaformer_nano_synthetic_int8")
    with pytest.raises(RecipeError, match="has quant: null"):
        quantized_levels(not_quantizing, never_opened, [tmp_path / "q.safetensors"], [IsrPlan()])
    assert quantized_levels(not_quantizing, never_opened, [], [IsrPlan()]) == []


def test_half_precision_of_a_bundle_from_before_it_was_laid_out_for_gpus(tmp_path: Path) -> None:
    half = replace(tiny_program(tmp_path / "half.onnx"), precision="fp16", form=Form.GPU)
    golden = [GoldenFrame("x", tiny_image(), tiny_mask(tiny_image()), precision="fp16")]
    path = tiny_bundle(tmp_path / "b.edgeseg", programs=[half], golden=golden).path / "manifest.json"
    data = json.loads(path.read_bytes())
    del data["digest"]
    data["levels"][0]["programs"]["fp16"]["spec"]["form"] = "onnxruntime"
    path.write_bytes(Manifest.model_validate_json(json.dumps(data)).to_bytes())
    assert open_bundle(path.parent).program(0, "fp16", "tensorrt").form == "onnxruntime"
