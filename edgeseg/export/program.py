"""A torch model as one static ONNX graph: uint8 image in, uint8 class map out.

Everything that a deployment could get wrong lies inside: colour order, normalisation, the resize of the
logits, argmax. The graph holds standard operators only, fixed shapes and no control flow, and LayerNorm as
one operator. It is written by torch's TorchScript exporter, the one that also exports quantizers on a machine
without a GPU.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from edgeseg.errors import BuildError
from edgeseg.export.graph.cleanup import clean, store_half
from edgeseg.export.graph.editor import GraphEditor
from edgeseg.export.graph.layout import cast_image_first
from edgeseg.export.graph.tile_attention import attention_in_pieces
from edgeseg.files import replace_file
from edgeseg.rewrite.form import Deployed, deploy
from edgeseg.rewrite.rewrites import resize_bilinear
from edgeseg.specs import Form, ImageSpec, IsrPlan, LabelSpace, Program

OPSETS = (17, 20)
"""First opset with LayerNormalization, last one that static INT8 quantization in ONNX Runtime takes."""

Weights = Literal["fp32", "fp16"]
_EDITS: Mapping[str, Callable[[GraphEditor], int]] = {
    Form.CPU: attention_in_pieces,
    Form.GPU: cast_image_first,
}
"""Form of a float program -> its edit, which returns how many places it changed."""


class _ProgramModule(nn.Module):
    """uint8 image, (1, H, W, 3) or (1, 3, H, W) -> uint8 class map (1, H / mask_stride, W / mask_stride)."""

    mean: Tensor
    gain: Tensor

    def __init__(self, deployed: Deployed, mask_stride: int) -> None:
        super().__init__()
        self.model, image = deployed.model, deployed.image
        self.hwc = image.layout == "HWC"
        self.mask_hw = (image.size_hw[0] // mask_stride, image.size_hw[1] // mask_stride)
        self.register_buffer("mean", torch.tensor(image.mean_rgb)[:, None, None])
        self.register_buffer("gain", 1.0 / torch.tensor(image.std_rgb)[:, None, None])
        self.has_gain = any(std != 1.0 for std in image.std_rgb)

    def forward(self, image: Tensor) -> Tensor:
        # Transposed as bytes: a quarter of the traffic, and the subtraction then runs along rows.
        x = (image.permute(0, 3, 1, 2) if self.hwc else image).float() - self.mean
        logits = self.model(x * self.gain if self.has_gain else x)
        return resize_bilinear(logits, self.mask_hw).argmax(1).to(torch.uint8)


def export_program(
    model: nn.Module,
    *,
    image: ImageSpec,
    labels: LabelSpace,
    mask_stride: int,
    arch: str,
    out: Path,
    opset: int = 17,
    weights: Weights = "fp32",
    form: Form = Form.CPU,
) -> Program:
    """Write `model`, at the ISR plan in force, as an ONNX file. The model itself is not changed.

    Args:
        model: (1, 3, H, W) float32, normalised -> logits (1, K, h, w); K is the number of labels.
        mask_stride: logits are resized (bilinear, pixel centres aligned) to 1 / mask_stride of
            `image.size_hw` before argmax; the logits' own stride costs nothing, 1 gives a mask of full size.
        arch: catalogue name, for the record.
        out: the file; it appears whole or not at all.
        weights: "fp16" stores large weights in half the bytes; the graph casts them to float32, which
            runtimes do once, at load.
        form: the runtime that the graph is laid out for; it runs, with the same answer, in every other too.
    Raises:
        BuildError: the model cannot run at this size and plan, its classes are not the labels, it cannot be
            exported, or the file cannot be written.
    """
    check_export(deploy(model, image, Form.PLAIN).model, image, labels, mask_stride, opset)
    plan = getattr(model, "isr_plan", IsrPlan((), ()))
    program = Program(out, image, labels, mask_stride, plan, "float", arch, form=form)
    graph = clean(trace_program(deploy(model, image, form), mask_stride, opset))
    editor = GraphEditor(graph)
    if form in _EDITS and _EDITS[form](editor):
        graph = editor.finish()
    if weights == "fp16":
        store_half(graph)
    onnx.checker.check_model(graph, full_check=True)
    write_model(graph, out)
    return program


def check_export(
    model: nn.Module, image: ImageSpec, labels: LabelSpace, mask_stride: int, opset: int
) -> None:
    """Raise BuildError where a model cannot be exported like this; see `export_program`."""
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise BuildError(f"opset {opset} is not supported", hint=f"export.opset: {OPSETS[0]} to {OPSETS[1]}")
    if mask_stride < 1 or any(side % mask_stride for side in image.size_hw):
        raise BuildError(
            f"a mask at stride {mask_stride} of {image.size_hw[0]}x{image.size_hw[1]} px has no whole size",
            hint="export.mask_stride: 1, 2, 4 or 8, and a divisor of both sides of export.size_hw",
        )
    _check_fit(model, image, labels)


def _check_fit(model: nn.Module, image: ImageSpec, labels: LabelSpace) -> None:
    """Raise BuildError where the model does not run at this size, or gives another number of classes."""
    height, width = image.size_hw
    try:
        with torch.inference_mode():
            logits = model(torch.zeros(1, 3, height, width))
    except ValueError as error:
        raise BuildError(
            f"the model cannot run at {height}x{width} px: {error}",
            hint=(
                f"export.size_hw: multiples of {getattr(model, 'size_multiple_px', image.multiple_px)}, or a"
                " smaller isr plan"
            ),
        ) from error
    if logits.shape[1] != labels.num_classes:
        raise BuildError(
            f"the model has {logits.shape[1]} classes, the label space {labels.num_classes}",
            hint="export with the data section that the checkpoint was trained with",
        )


def trace_program(deployed: Deployed, mask_stride: int, opset: int) -> onnx.ModelProto:
    """A deployed model, with all that lies around it, as torch's exporter writes it. Raises BuildError."""
    module, image = _ProgramModule(deployed, mask_stride), deployed.image
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter announces its age, and that shapes read in Python are frozen: fixed shapes are what we
        # want.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
        warnings.filterwarnings(
            "ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning
        )
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # It writes the sizes of a padding as constant arithmetic, which every runtime folds when it loads the
        # file.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        try:
            torch.onnx.export(
                module,
                (torch.zeros(image.input_shape, dtype=torch.uint8),),
                buffer,  # type: ignore[arg-type]  # any binary file will do
                dynamo=False,
                opset_version=opset,
                input_names=["image"],
                output_names=["mask"],
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise BuildError(
                f"the model cannot be exported: {error}", hint="report it with the architecture's name"
            ) from error
    return onnx.load_model_from_string(buffer.getvalue())


def write_model(graph: onnx.ModelProto, out: Path) -> None:
    """Write the file whole, or leave `out` as it was. Raises BuildError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, graph.SerializeToString(deterministic=True))
    except OSError as error:
        raise BuildError(
            f"{out} cannot be written: {error.strerror}", hint="choose another folder, or free space"
        ) from error
