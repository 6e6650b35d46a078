"""What a recipe holds. Strict and frozen: an unknown key, a wrong type or a missing section is an error.

Sections that change results (`model`, `data`, `augment`, `train`, `isr`, `quant`, `export`, `targets`,
`gate`) have no default: a recipe is complete by itself, and what it leaves out it leaves out in writing
(`quant: null`). Single values inside a section have defaults where the field agrees on one. Machine-local
facts (data root, device, workers, threads) are command options, never here.

Bounds of single values stand here; what several values must be to each other, and to the model and the data
that the recipe names, stands in `rules`. A number is refused where nothing can be trained or built with it,
not where it is merely unusual.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeseg.registry import DATASETS_GROUP, Table
from edgeseg.specs import IsrPlan, LabelSpace, Precision

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=1, le=99_999_999)]
"""Optimiser steps; states of a run are numbered with eight digits."""
Batch = Annotated[int, Field(ge=1, le=65536)]
Rate = Annotated[float, Field(ge=1e-9, le=1)]
"""Learning rate of AdamW, which moves every weight by about so much in a step: below, float32 weights do not
move at all.
"""
Decay = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=16384)]
SizeHW = tuple[Side, Side]
Gain = Annotated[float, Field(ge=0.05, le=10)]
Channel = Annotated[int, Field(ge=0, le=255)]

_FORMATS = "edgeseg.data.formats"
DATA_FORMATS: Table[Any] = Table(
    DATASETS_GROUP,
    "data format",
    {
        "folders": f"{_FORMATS}:folders",
        "camvid": f"{_FORMATS}:camvid",
        "cityscapes": f"{_FORMATS}:cityscapes",
        "ade20k": f"{_FORMATS}:ade20k",
        "coco_stuff": f"{_FORMATS}:coco_stuff",
        "pascal_context": f"{_FORMATS}:pascal_context",
        "mapillary": f"{_FORMATS}:mapillary",
        "idd_lite": f"{_FORMATS}:idd_lite",
        "synthetic": f"{_FORMATS}:synthetic",
    },
)
"""What makes a `data.formats.Format` of a recipe's `Data` and the data root; packages add theirs through the
entry-point group `edgeseg.datasets`."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    """Which network."""

    arch: str = Field(description="catalogue name, e.g. edaformer_t")
    options: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="the catalogue entry's own options, e.g. drop_path"
    )


class Classes(Section):
    """Class names and colours of a `folders` data set."""

    names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, max_length=255)
    palette_rgb: tuple[tuple[Channel, Channel, Channel], ...] = Field(min_length=1, max_length=255)
    ignore_index: int = Field(default=255, ge=1, le=255, description="label value that nothing counts")

    def label_space(self) -> LabelSpace:
        return LabelSpace(self.names, self.palette_rgb, self.ignore_index)


def _template(text: str) -> str:
    if text.count("{}") != 1 or "/" in text:
        raise ValueError(f"{text!r}: write {{}} once, where the sample's name is, without folder and suffix")
    return text


Template = Annotated[str, AfterValidator(_template)]
"""How a file is called, {} being its sample's name."""


class Split(Section):
    """One split of a data set. Folders are relative to the data root; images and labels pair up by path
    without suffix.
    """

    images: str = Field(description="folder of images")
    labels: str = Field(description="folder of label files")
    include: tuple[str, ...] = Field(
        default=(), description="keep only samples whose name matches one of these globs"
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="drop samples whose name matches one of these globs"
    )
    image_name: Template = Field(
        default="{}", description="how an image is called, {} being the sample's name, e.g. img_{}"
    )
    label_name: Template = Field(
        default="{}", description="how a label file is called, {} being the sample's name, e.g. {}_mask"
    )


class Data(Section):
    """Where images and labels lie below the data root, and what label values mean."""

    format: str = Field(
        description="folder layout and label encoding; `folders` takes both from this section"
    )
    classes: Classes | None = Field(description="null: the format's own classes")
    train: Split | None = Field(description="null: the format's own training split")
    val: Split | None = Field(description="null: the format's own validation split")
    encoding: Literal["index", "palette"] = Field(
        default="index",
        description="folders: a label pixel is a class index, or a colour of classes.palette_rgb",
    )
    index_map: dict[int, int] = Field(
        default_factory=dict,
        description="folders: raw label value -> class index or ignore_index; values not named stay",
    )


class Augment(Section):
    """Joint augmentation of image and label in training."""

    crop_hw: SizeHW = Field(description="training crop, pixels; both sides multiples of the model's stride")
    base_hw: SizeHW | None = Field(
        default=None, description="images are first fitted into this size, aspect kept; null: native size"
    )
    scale_range: tuple[Gain, Gain] = Field(
        default=(0.5, 2.0), description="random rescaling, log-free uniform"
    )
    max_class_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75, description="a crop with more of one class is drawn again, ten times at most"
    )
    flip: Fraction = Field(default=0.5, description="probability of a left-right flip")
    brightness: float = Field(
        default=32.0, ge=0, le=255, description="added, uniform in +-, on the 0..255 scale"
    )
    contrast: tuple[Gain, Gain] = (0.5, 1.5)
    saturation: tuple[Gain, Gain] = (0.5, 1.5)
    hue: float = Field(
        default=18.0, ge=0, le=180, description="shift, uniform in +-, degrees of 360 / 2 (OpenCV's hue)"
    )


class Train(Section):
    """Optimisation. Defaults are EDAFormer's published setting."""

    steps: Steps
    batch_size: Batch = Field(
        description="images per optimiser step, over all processes and accumulation steps"
    )
    accumulate: Batch = Field(
        default=1, description="micro-batches per optimiser step; batch_size is a multiple of it"
    )
    lr: Rate = Field(default=6e-5, description="peak learning rate of the encoder")
    decoder_lr_factor: float = Field(
        default=10.0, gt=0, le=1e6, description="the decoder's learning rate over the encoder's"
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="of AdamW; at 1 it would never move")
    weight_decay: float = Field(
        default=0.01, ge=0, le=1, description="norm parameters of the encoder are exempt"
    )
    warmup_steps: int = Field(
        default=1500, ge=0, description="linear, from 1e-6 of the learning rate; fewer than steps"
    )
    poly_power: float = Field(
        default=1.0, gt=0, le=10, description="learning rate ~ (1 - step / steps) ** poly_power"
    )
    clip_norm: float | None = Field(default=None, ge=1e-4, description="gradient norm limit; null: none")
    ohem_keep: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="keep this share of the hardest pixels; null: all"
    )
    class_weights: tuple[Annotated[float, Field(ge=0, le=1e4)], ...] | None = Field(
        default=None, description="one weight a class, not all 0; null: all 1"
    )
    ema_decay: Decay | None = Field(
        default=None, description="moving average of the weights, used for validation; null: off"
    )
    amp: Literal["auto", "bf16", "off"] = Field(
        default="auto", description="auto: bf16 where the hardware has it"
    )
    seed: int = Field(default=0, ge=0)
    checkpoint_every: PositiveInt = Field(default=1000, description="steps between resumable checkpoints")
    val_every: PositiveInt = Field(default=1000, description="steps between validations")
    patience: PositiveInt | None = Field(
        default=None, description="stop after so many validations without a better mIoU"
    )
    init_skip: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="globs of parameters that --init does not load, e.g. decoder.classifier.*"
    )


class Choose(Section):
    """Which plan of a search's front becomes level 0: exactly one of these rules."""

    max_miou_drop: Fraction | None = Field(
        default=None,
        description="the fastest that loses no more mIoU against the training ratios; a fraction",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="the most exact that is as fast"
    )
    knee: bool = Field(default=False, description="where further speed begins to cost more accuracy")


class Isr(Section):
    """Inference spatial reduction: multipliers on the training-time pooling ratios, fine to coarse."""

    encoder: tuple[Side, ...] = Field(
        description="strides 4, 8, 16, 32; all 1: the training ratios; empty for encoders without ISR"
    )
    decoder: tuple[Side, ...] = Field(description="strides 8, 16, 32; empty for decoders without ISR")
    choose: Choose = Field(
        default=Choose(max_miou_drop=0.002),
        description="edgeseg isr: the rule for level 0; by default what the paper's authors lost",
    )
    finetune_steps: int = Field(
        default=0,
        ge=0,
        le=99_999_999,
        description="edgeseg isr --finetune: optimiser steps with a plan in force",
    )
    finetune_lr_factor: float = Field(
        default=0.1, gt=0, le=1e6, description="peak learning rate of fine-tuning over train.lr"
    )

    def plan(self) -> IsrPlan:
        return IsrPlan(self.encoder, self.decoder)


class Calibration(Section):
    """How the ranges of activations are found."""

    images: str = Field(
        min_length=1,
        description="a calibration set: the name of one that ships, or the path of a calib/*.yaml",
    )
    method: Literal["max", "percentile", "mse", "entropy"] = Field(
        default="percentile",
        description="how an activation's range follows from what was seen; `edgeseg calib sweep` compares",
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        default=99.99, description="method percentile: share of absolute values inside the range, percent"
    )


class Qat(Section):
    """Quantization-aware fine-tuning: the float model teaches the quantized one."""

    steps: Steps
    batch_size: Batch = 8
    lr: Rate = Field(
        default=1e-4, description="peak learning rate, relative to the size (RMS) of each tensor"
    )
    warmup_steps: int = Field(default=20, ge=0, description="fewer than steps")
    scales: Literal["frozen", "learned"] = Field(
        default="frozen", description="activation ranges stay as calibrated, or are trained with the weights"
    )
    temperature: float = Field(
        default=1.0, ge=0.01, le=100, description="of the distillation, on both models' logits"
    )
    distill_weight: Fraction = Field(
        default=0.5, description="share of the distillation loss; the rest is cross-entropy"
    )
    val_every: PositiveInt = Field(
        default=100, description="steps between validations, with the quantizers in force"
    )


class Quant(Section):
    """INT8: weights symmetric per output channel, activations symmetric per tensor; everything else stays
    float.
    """

    calibration: Calibration
    attention: Literal["float", "int8"] = Field(
        default="int8", description="the products of queries, keys and values"
    )
    first_conv: Literal["float", "int8"] = Field(
        default="int8", description="the convolution that sees the image"
    )
    classifier: Literal["float", "int8"] = Field(
        default="int8", description="the last convolution, which gives the logits"
    )
    keep_float: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="globs of layers that stay float, on your word"
    )
    min_coverage: Fraction = Field(description="share of multiply-adds that must be in INT8")
    max_miou_drop: Fraction = Field(
        description="mIoU that INT8 may lose against the float model, both through the engine"
    )
    qat: Qat | None = Field(description="null: calibration only (PTQ)")


class Export(Section):
    """The program: fixed shapes, normalisation and argmax inside."""

    size_hw: SizeHW = Field(description="the program's image size; frames are resized to it")
    layout: Literal["HWC", "NCHW"] = Field(
        default="HWC", description="uint8 input as (1, H, W, 3) or (1, 3, H, W)"
    )
    mask_stride: Literal[1, 2, 4, 8] = Field(
        description=(
            "the mask leaves at 1 / mask_stride of size_hw; larger is faster and costs boundary accuracy"
        )
    )
    opset: Annotated[int, Field(ge=17, le=20)] = 17


class Target(Section):
    """A runtime to build an engine with."""

    runtime: str = Field(
        description=(
            "a row of the engine table, e.g. onnxruntime; with tensorrt, torch_tensorrt or tensorrt_rtx an"
            " export also holds programs for a GPU, in float and half precision"
        )
    )


class Gate(Section):
    """What an engine must reach to be packed. Fractions, not percent."""

    max_miou_drop: Fraction = Field(
        description="mIoU lost against the float torch model on the validation split"
    )
    min_mask_agreement: Fraction = Field(
        default=0.99, description="share of equal mask pixels on the golden frames"
    )


class Recipe(Section):
    """The whole file."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_]*$",
        max_length=100,
        description="lower case; names the run and the bundle",
    )
    summary: str = Field(description="one sentence for `edgeseg recipe list`")
    model: Model
    data: Data
    augment: Augment
    train: Train
    isr: Isr
    quant: Quant | None = Field(description="null: a float bundle")
    export: Export
    targets: tuple[Target, ...] = Field(min_length=1)
    gate: Gate

    def miou_gate(self, precision: Precision) -> tuple[str, float]:
        """Key and value of the gate on the mIoU that an engine of this precision loses against the float
        model.
        """
        if precision == "int8" and self.quant is not None:
            return "quant.max_miou_drop", self.quant.max_miou_drop
        return "gate.max_miou_drop", self.gate.max_miou_drop
