"""Small bundles in every form and precision, for whatever runtime will open them: python
tests/runtimes/bundles.py FOLDER

Made once, with torch. One bundle for each family of models, whose operators differ, with weights by rule;
that of EDAFormer has two levels on one file of weights. And the bundle that is shipped.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
import onnxruntime
import torch

from edgeseg.bundle import create_bundle
from edgeseg.bundle.golden import GoldenFrame
from edgeseg.export.golden import golden_frames
from edgeseg.export.graph.forms import write_form
from edgeseg.export.graph.half import write_half
from edgeseg.export.graph.shared_weights import share_weights
from edgeseg.export.onnx_qdq import export_qdq
from edgeseg.export.program import export_program
from edgeseg.models import build_model
from edgeseg.models.reference import TorchReference
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.specs import (
    DIALECTS,
    Form,
    ImageU8,
    IsrPlan,
    MaskU8,
    Program,
)
from edgeseg.synthetic.scene import LABELS as SCENE
from golden_rule import fill
from quantized import LABELS, quantized_model

SHIPPED = Path(__file__).parents[2] / "edgeseg" / "_demo"
FAMILIES: list[tuple[str, dict[str, str], Sequence[IsrPlan]]] = [
    ("edaformer_nano", {}, [IsrPlan((1, 1, 1, 1), (1, 1, 1)), IsrPlan((2, 2, 1, 1), (2, 2, 2))]),
    ("segformer_nano", {}, []),
    ("segformer_mobile_nano", {}, []),
    ("repsep_nano", {}, []),
    ("vwformer_nano", {}, []),
    ("vwformer_nano", {"upsample": "lda_aqu"}, []),
]
"""Name, options, and ISR plans where not the model's own alone."""
SIZE_HW, STRIDE = (64, 128), 8
FLOAT_FORMS = (Form.CPU, Form.CPU_OPENVINO, Form.GPU)

Images = Sequence[tuple[str, ImageU8]]
Made = tuple[list[Program], list[GoldenFrame]]


def of_a_family(name: str, options: Mapping[str, str], plans: Sequence[IsrPlan], out: Path) -> None:
    recipe = load_recipe(find_recipe("edaformer_nano_synthetic_int8"), ["gate.min_mask_agreement=0.9"])
    random = np.random.default_rng(0)
    images = [(f"noise_{n}", random.integers(0, 256, (*SIZE_HW, 3), np.uint8)) for n in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        made = list(levels(name, options, plans, images, Path(folder)))
        programs, golden = (
            [one for some, _ in made for one in some],
            [one for _, some in made for one in some],
        )
        assert all(len(np.unique(frame.mask)) > 2 for frame in golden), (
            f"{name}: a mask of one class agrees with too much"
        )
        if len(plans) > 1:
            programs = share_weights(programs, Path(folder) / "shared")
        programs = [
            replace(program, labels=SCENE) for program in programs
        ]  # masks hold the first of its classes
        create_bundle(out, recipe_text=dump_recipe(recipe), programs=programs, golden=golden)


def levels(
    name: str, options: Mapping[str, str], plans: Sequence[IsrPlan], images: Images, folder: Path
) -> Iterator[Made]:
    """Programs in every precision and form at each plan, and their golden frames."""
    model = fill(build_model(name, LABELS.num_classes, **options)).eval()
    image = model.image_spec(SIZE_HW, "HWC")
    reference, quantized = TorchReference(model, image, STRIDE), quantized_model(name, SIZE_HW, **options)
    # Weights by rule like one class best, and the mask would say nothing.
    likes = torch.stack([reference.logits(pixels).mean((0, 2, 3)) for _, pixels in images]).mean(0)
    for one in (model, quantized.model):
        one.get_parameter("decoder.classifier.bias").data -= likes
    for level, plan in enumerate(plans or [model.isr_plan]):
        home = folder / str(level)
        home.mkdir()
        for network in (model, quantized.model):
            network.set_isr(plan)  # type: ignore[operator]
        named: Any = {"image": image, "labels": LABELS, "mask_stride": STRIDE, "arch": name}
        floats = [
            export_program(model, out=home / f"{form}.onnx", form=form, **named) for form in FLOAT_FORMS
        ]  # type: ignore[arg-type]
        canonical = export_qdq(replace(quantized, plan=plan), mask_stride=STRIDE, out=home / "canonical.onnx")
        others = [write_form(canonical, form, home) for form in (*DIALECTS, Form.QDQ_HALF)]
        in_int8 = [
            GoldenFrame(title, pixels, plainly(canonical, pixels), level, "int8") for title, pixels in images
        ]
        in_float = [
            frame for kind in ("float", "fp16") for frame in golden_frames(reference, images, level, kind)
        ]  # type: ignore[arg-type]
        yield (
            [*floats[:2], write_half(floats[2], home / "fp16.onnx"), canonical, *others],
            [*in_float, *in_int8],
        )


def plainly(program: Program, pixels: ImageU8) -> MaskU8:
    """The answer of a Q/DQ graph as it is written, node by node in float: right on every processor."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(program.onnx_path), settings, providers=["CPUExecutionProvider"]
    )
    (mask,) = session.run(None, {session.get_inputs()[0].name: pixels[None]})
    answer: MaskU8 = mask.reshape(program.mask_shape)
    return answer


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, options, plans in FAMILIES:
        of_a_family(name, options, plans, out / f"{'_'.join((name, *options.values()))}.edgeseg")
    for bundle in SHIPPED.glob("*.edgeseg"):
        shutil.copytree(bundle, out / bundle.name, dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
