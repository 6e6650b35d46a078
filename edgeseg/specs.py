"""Values that cross floors. Frozen data, no behaviour beyond checking and JSON; numpy is the only
dependency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ImageU8 = npt.NDArray[np.uint8]
"""RGB image, shape (H, W, 3), uint8, range 0..255."""
MaskU8 = npt.NDArray[np.uint8]
"""Class map, shape (H, W), uint8; values are class indices, or LabelSpace.ignore_index where no label
counts.
"""

Layout = Literal["HWC", "NCHW"]
Precision = Literal["float", "fp16", "int8"]
"""Of a program: its arithmetic is float32; or half precision wherever that does no harm; or the layers' is
INT8.
"""


class Form(str, Enum):
    """Layout of a program, after the reader that runs it fastest. All forms of one precision compute the
    same. The values are the words that bundles and reports store.

    Attributes:
        CPU: float, for ONNX Runtime on a processor; every float program comes in it, every runtime reads it.
        CPU_OPENVINO: float, for OpenVINO.
        GPU: float, for runtimes on a GPU; the one form of a program in half precision.
        PLAIN: float, the model as it is written; in no bundle.
        QDQ: INT8, symmetric Q/DQ, from which the other INT8 forms are derived by exact edits; every INT8
            program comes in it, every runtime reads it. Also the float model that quantizers are put into.
        QDQ_HALF: INT8, in half precision where `QDQ` computes in float32; for runtimes on a GPU.
        ORT_X86: INT8, for ONNX Runtime's integer kernels on x86 with VNNI.
        ORT_X86_U8U8: INT8, for those on x86 without VNNI.
        ORT_ARM: INT8, for those on ARM.
    """

    CPU = "onnxruntime"
    CPU_OPENVINO = "openvino"
    GPU = "tensorrt"
    PLAIN = "plain"
    QDQ = "qdq"
    QDQ_HALF = "half"
    ORT_X86 = "x86"
    ORT_X86_U8U8 = "x86_u8u8"
    ORT_ARM = "arm"

    __str__ = str.__str__


DIALECTS = (Form.ORT_X86, Form.ORT_X86_U8U8, Form.ORT_ARM)
"""The INT8 forms for ONNX Runtime's integer kernels."""
GPU_FORMS: Mapping[Precision, Form] = {"float": Form.GPU, "fp16": Form.GPU, "int8": Form.QDQ_HALF}
"""The forms for runtimes that compute on a GPU, in the types that a program names."""
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch_tensorrt")
"""The inference runtimes of this package, by name; `engines.table` has their classes, and those of other
packages.
"""
_CANONICAL: Mapping[Precision, Form] = {"float": Form.CPU, "fp16": Form.GPU, "int8": Form.QDQ}


def canonical_form(precision: Precision) -> Form:
    """The form that a program of this precision always comes in, and that a runtime gets where there is none
    of its own.
    """
    return _CANONICAL[precision]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image must look like at the door of a program.

    The program takes uint8 RGB and normalises inside: (x - mean_rgb) / std_rgb on the 0..255 scale.
    A frame of another size is resized (bilinear, aspect ratio not kept) to `size_hw` first.

    Attributes:
        size_hw: height and width in pixels; both multiples of `multiple_px`.
        mean_rgb, std_rgb: per-channel, on the 0..255 scale.
        layout: "HWC" = (1, H, W, 3), as decoders deliver frames; "NCHW" = (1, 3, H, W).
        multiple_px: the side lengths that the model is exact for.
    """

    size_hw: tuple[int, int]
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    layout: Layout = "HWC"
    multiple_px: int = 32

    def __post_init__(self) -> None:
        if any(side <= 0 or side % self.multiple_px for side in self.size_hw):
            raise ValueError(f"size_hw {self.size_hw} must be positive multiples of {self.multiple_px} px")
        if any(std <= 0 for std in self.std_rgb):
            raise ValueError(f"std_rgb {self.std_rgb} must be positive")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the program's input tensor, batch 1."""
        height, width = self.size_hw
        return (1, height, width, 3) if self.layout == "HWC" else (1, 3, height, width)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype (numpy name) and static shape of a program's input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """Class names and colours; class i is `names[i]`, drawn in `palette_rgb[i]`.

    `ignore_index` marks pixels that no loss and no metric counts; it is never a class of the model.
    """

    names: tuple[str, ...]
    palette_rgb: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 255:
            raise ValueError(f"a label space holds 1 to 255 classes, not {len(self.names)}")
        if len(self.palette_rgb) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.palette_rgb)} colours")
        if len(set(self.names)) != len(self.names):
            raise ValueError("class names must be distinct")
        if any(not 0 <= value <= 255 for colour in self.palette_rgb for value in colour):
            raise ValueError("colours are RGB, 0..255")
        if not len(self.names) <= self.ignore_index <= 255:
            raise ValueError(f"ignore_index {self.ignore_index} must lie between the classes and 255")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours as (256, 3) uint8, RGB; indices without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette_rgb)] = self.palette_rgb
        return table


@dataclass(frozen=True, slots=True)
class IsrPlan:
    """Inference spatial reduction: integer multipliers on the training-time pooling ratios of keys and
    values.

    Attributes:
        encoder: one multiplier per encoder stage, strides 4, 8, 16, 32.
        decoder: one multiplier per decoder stage, strides 8, 16, 32. The paper writes this list deepest
            first; here, as in the models, it runs from fine to coarse. Empty for decoders without ISR.

    Source: EDAFormer (arXiv 2407.17261), section 3.3.
    """

    encoder: tuple[int, ...] = (1, 1, 1, 1)
    decoder: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        for multiplier in (*self.encoder, *self.decoder):
            if not isinstance(multiplier, int) or multiplier < 1:
                raise ValueError(f"ISR multipliers are integers from 1 up, not {multiplier!r}")

    @property
    def is_base(self) -> bool:
        """True where the plan changes nothing."""
        return all(multiplier == 1 for multiplier in (*self.encoder, *self.decoder))

    def __str__(self) -> str:
        encoder, decoder = (",".join(map(str, part)) for part in (self.encoder, self.decoder))
        return f"{encoder}-{decoder}" if decoder else encoder

    @classmethod
    def parse(cls, text: str) -> IsrPlan:
        """Read the form that `str` writes: "2,2,1,1-2,2,2" (encoder-decoder, both fine to coarse), "2,2,1,1"
        or "-2,2,2" where only one part has ISR. Raises ValueError."""
        encoder, _, decoder = text.partition("-")
        return cls(*(tuple(int(m) for m in part.split(",")) if part else () for part in (encoder, decoder)))


@dataclass(frozen=True, slots=True)
class QuantHints:
    """What a model knows about its own quantization. Names are of modules in its deployed form.

    Attributes:
        products: modules that multiply two activations: queries with keys, and weights of attention with
            values.
        keep_float: (name, reason) of layers that must not be quantized.
        outputs: layers whose output is rounded as well, because what reads it is no quantized layer.
        first: the convolution that sees the image; None where there is no single one.
        classifier: the layer that gives the logits; None where there is no single one.
    """

    products: tuple[str, ...] = ()
    keep_float: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    first: str | None = None
    classifier: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A model as one static ONNX graph: uint8 image in, uint8 class map out, everything in between inside.

    Attributes:
        onnx_path: the file.
        image: what the input must look like.
        labels: what the output values mean.
        mask_stride: the mask is (H / mask_stride, W / mask_stride) of `image.size_hw`.
        isr: the plan the graph was exported at.
        precision: "float", "fp16" or "int8" (Q/DQ).
        arch: catalogue name of the model.
        blobs: files in the folder of `onnx_path` that hold its large weights, shared with other programs;
            empty where it holds all its weights itself.
        form: what the graph is laid out for.
    """

    onnx_path: Path
    image: ImageSpec
    labels: LabelSpace
    mask_stride: int
    isr: IsrPlan
    precision: Precision
    arch: str
    blobs: tuple[Path, ...] = ()
    form: Form = Form.CPU

    @property
    def mask_shape(self) -> tuple[int, int]:
        height, width = self.image.size_hw
        return height // self.mask_stride, width // self.mask_stride

    def to_json(self) -> dict[str, Any]:
        """Everything but the paths, as plain JSON values."""
        data = asdict(self)
        del data["onnx_path"], data["blobs"]
        return {**data, "form": self.form.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], onnx_path: Path, blobs: tuple[Path, ...] = ()) -> Program:
        """Inverse of `to_json`. Raises ValueError, KeyError or TypeError on a malformed document."""
        labels, isr = data["labels"], data["isr"]
        image: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["image"].items()}
        return cls(
            onnx_path=onnx_path,
            image=ImageSpec(**image),
            labels=LabelSpace(
                names=tuple(labels["names"]),
                palette_rgb=tuple((int(r), int(g), int(b)) for r, g, b in labels["palette_rgb"]),
                ignore_index=labels["ignore_index"],
            ),
            mask_stride=data["mask_stride"],
            isr=IsrPlan(tuple(isr["encoder"]), tuple(isr["decoder"])),
            precision=data["precision"],
            arch=data["arch"],
            blobs=blobs,
            form=Form(data.get("form", canonical_form(data["precision"]))),
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a stream.

    Attributes:
        image_rgb: (H, W, 3) uint8; the receiver's own: its source does not write to it again.
        index: position in the source, from 0, without gaps.
        pts_s: presentation time in seconds from the start of the source.
        arrival_s: `time.monotonic()` when the frame was handed over; frame age counts from here.
        source_id: which source it came from; never holds credentials.
        name: file name without folder, for folders of images; empty otherwise.
        connection: of a live source, from 1; between two of them nobody knows what happened. 0 where there is
            one only.
        pixel_aspect: width of a pixel over its height; 1 for square ones. The picture is as it was stored,
            not stretched.
        damaged: it may be smeared by what was lost before it; only where such pictures are asked for.
    """

    image_rgb: ImageU8
    index: int
    pts_s: float
    arrival_s: float
    source_id: str
    name: str = ""
    connection: int = 0
    pixel_aspect: float = 1.0
    damaged: bool = False
