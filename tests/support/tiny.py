"""A program small enough to know its answers by heart, and a bundle around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseg.bundle import Bundle, create_bundle
from edgeseg.bundle.golden import GoldenFrame
from edgeseg.bundle.manifest import EngineEntry
from edgeseg.specs import Form, ImageSpec, ImageU8, IsrPlan, LabelSpace, MaskU8, Program

SIZE_HW = (32, 64)
STRIDE = 2
RECIPE = """\
name: tiny
summary: for tests
model: {arch: edaformer_nano}
data:
  format: folders
  classes: {names: [dark, bright], palette_rgb: [[0, 0, 0], [255, 255, 255]]}
  train: {images: train/images, labels: train/labels}
  val: {images: val/images, labels: val/labels}
augment: {crop_hw: [32, 64]}
train: {steps: 10, batch_size: 1, warmup_steps: 1}
isr: {encoder: [1, 1, 1, 1], decoder: [1, 1, 1]}
quant: null
export: {size_hw: [32, 64], mask_stride: 2}
targets:
  - runtime: onnxruntime
gate: {max_miou_drop: 0.01, min_mask_agreement: 0.99}
"""


def tiny_program(
    path: Path, layout: str = "HWC", isr: IsrPlan | None = None, threshold: float = 127.5
) -> Program:
    """A program whose mask is 1 where the mean of a 2 x 2 block's channels exceeds `threshold`: cast, average
    pool, argmax.
    """
    height, width = SIZE_HW
    shape = (1, height, width, 3) if layout == "HWC" else (1, 3, height, width)
    weight = np.array([[-1.0] * 3, [1.0] * 3], np.float32).reshape(2, 3, 1, 1) / 3
    bias = np.array([threshold, -threshold], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose" if layout == "HWC" else "Identity", ["pixels"], ["x"]),
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0),
        helper.make_node("Cast", ["labels"], ["mask"], to=TensorProto.UINT8),
    ]
    if layout == "HWC":
        nodes[1].attribute.append(helper.make_attribute("perm", [0, 3, 1, 2]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, (1, height // STRIDE, width // STRIDE))],
        [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return Program(
        onnx_path=path,
        image=ImageSpec(SIZE_HW, layout="HWC" if layout == "HWC" else "NCHW"),
        labels=LabelSpace(("dark", "bright"), ((0, 0, 0), (255, 255, 255))),
        mask_stride=STRIDE,
        isr=isr or IsrPlan(),
        precision="float",
        arch="tiny",
    )


def tiny_mask(image_rgb: ImageU8, threshold: float = 127.5) -> MaskU8:
    """What `tiny_program` answers, in numpy."""
    height, width = SIZE_HW
    means = image_rgb.astype(np.float64).reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3, 4))
    mask: MaskU8 = (means > threshold).astype(np.uint8)
    return mask


def tiny_image(seed: int = 0) -> ImageU8:
    """Noise in blocks, so that both classes appear; block means lie well off the threshold."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array([40, 220], np.uint8), (SIZE_HW[0] // 2, SIZE_HW[1] // 2, 1))
    image: ImageU8 = np.repeat(blocks, 2, 0).repeat(2, 1).repeat(3, 2) + rng.integers(
        0, 20, (*SIZE_HW, 3), np.uint8
    )
    return image


def tiny_bundle(path: Path, **changes: Any) -> Bundle:
    """A bundle of `tiny_program` with two golden frames. `changes` replace arguments of `create_bundle`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = path.parent / "tiny.onnx"
    images = {f"frame{seed}": tiny_image(seed) for seed in (0, 1)}
    arguments: dict[str, Any] = {
        "recipe_text": RECIPE,
        "programs": [tiny_program(program)],
        "golden": [(name, image, tiny_mask(image)) for name, image in images.items()],
        "reports": {"accuracy": {"miou": 0.5}},
    }
    return create_bundle(path, **{**arguments, **changes})


def tiny_levels(folder: Path) -> dict[str, Any]:
    """Arguments of `create_bundle` for two ISR levels, thresholds 127.5 and 230.1, that share a file of
    weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plans, thresholds = (IsrPlan(), IsrPlan((2, 2, 1, 1), (2, 2, 2))), (127.5, 230.1)
    programs = [
        outside_weights(tiny_program(folder / f"{n}.onnx", isr=plan, threshold=threshold))
        for n, (plan, threshold) in enumerate(zip(plans, thresholds, strict=True))
    ]
    image = tiny_image()
    golden = [("x", image, tiny_mask(image, threshold), level) for level, threshold in enumerate(thresholds)]
    return {"programs": programs, "golden": golden}


def tiny_precisions(folder: Path) -> dict[str, Any]:
    """Arguments of `create_bundle` for a float program and an INT8 one in all its forms, alike but for a hair
    in their files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    int8 = [
        replace(tiny_program(folder / f"{form}.onnx", threshold=threshold), precision="int8", form=form)
        for form, threshold in ((Form.QDQ, 127.6), (Form.ORT_X86, 127.7), (Form.ORT_ARM, 127.8))
    ]
    image = tiny_image()
    golden = [GoldenFrame("x", image, tiny_mask(image), 0, precision) for precision in ("float", "int8")]
    return {"programs": [tiny_program(folder / "float.onnx"), *int8], "golden": golden}


def outside_weights(program: Program, location: str = "weights.bin") -> Program:
    """The program rewritten to read its convolution's weight from a file, weights.bin beside it or wherever
    `location` says.
    """
    model = onnx.load(program.onnx_path)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    blob = program.onnx_path.parent / "weights.bin"
    blob.write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    program.onnx_path.write_bytes(model.SerializeToString())
    return replace(program, blobs=(blob,))


def tiny_engine(**changes: Any) -> EngineEntry:
    """The entry of an engine for some other machine."""
    values: dict[str, Any] = {
        "level": 0,
        "runtime": "onnxruntime",
        "runtime_version": "1.0",
        "device": "a toaster with onnxruntime 1.0",
        "device_key": "a" * 64,
        "precision": "float",
        "key": "b" * 64,
        "files": ("engine.onnx",),
        "options": {"threads": 1},
        "measurements": {"median_ms": 1.0},
        "created": "2026-01-01T00:00:00+00:00",
    }
    return EngineEntry(**{**values, **changes})
