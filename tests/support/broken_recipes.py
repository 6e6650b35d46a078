"""A right recipe, and single mistakes to break it with: what a recipe can say that cannot be trained, built
or meant.
"""

from __future__ import annotations

import copy
from typing import Any

from edgeseg.recipe.labels import label_space

_IDD = label_space("idd_lite")
_GOOD: dict[str, Any] = {
    "name": "street",
    "summary": "for tests",
    "model": {"arch": "edaformer_nano", "options": {"drop_path": 0.1}},
    "data": {"format": "synthetic", "classes": None, "train": None, "val": None},
    "augment": {"crop_hw": [128, 128]},
    "train": {"steps": 20, "batch_size": 4, "accumulate": 1, "warmup_steps": 2, "lr": 1e-4},
    "isr": {"encoder": [1, 1, 1, 1], "decoder": [1, 1, 1]},
    "quant": {
        "calibration": {"images": "synthetic_train_16"},
        "min_coverage": 0.5,
        "max_miou_drop": 0.01,
        "qat": {"steps": 10, "warmup_steps": 2},
    },
    "export": {"size_hw": [128, 128], "mask_stride": 1},
    "targets": [{"runtime": "onnxruntime"}],
    "gate": {"max_miou_drop": 0.01},
}
_CLASSES = {"names": ["road", "sky"], "palette_rgb": [[128, 64, 128], [70, 130, 180]]}
_SPLIT = {"images": "images", "labels": "labels"}
FOLDERS: dict[str, Any] = {
    "format": "folders",
    "classes": _CLASSES,
    "train": _SPLIT,
    "val": {**_SPLIT, "images": "val"},
}


def good() -> dict[str, Any]:
    """A recipe without a mistake, as plain values."""
    return copy.deepcopy(_GOOD)


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path; with `a+b`, each of them, the values in a list. Sections that are not
    there are made.
    """
    paths = path.split("+")
    for one, own in zip(paths, value if len(paths) > 1 else [value], strict=True):
        *parents, last = one.split(".")
        here = data
        for key in parents:
            inside = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
            here = inside
        if isinstance(here, list):
            here[int(last)] = own
        else:
            here[last] = copy.deepcopy(own)


def folders(**changes: Any) -> dict[str, Any]:
    """A data section of format `folders`, changed in places."""
    return {**copy.deepcopy(FOLDERS), **changes}


def classes(**changes: Any) -> dict[str, Any]:
    return folders(classes={**_CLASSES, **changes})


MISTAKES: list[tuple[str, Any, str]] = [
    # names
    (
        "model.arch",
        "edaformr_nano",
        "model.arch: there is no model 'edaformr_nano'; did you mean edaformer_nano?",
    ),
    ("model.arch", "resnet", "model.arch: there is no model 'resnet'; `edgeseg models` lists them"),
    (
        "targets.0.runtime",
        "onnxruntme",
        "targets.0.runtime: there is no runtime 'onnxruntme'; did you mean onnxruntime?",
    ),
    (
        "targets.0.runtime",
        "cuda",
        "targets.0.runtime: there is no runtime 'cuda'; known: onnxruntime, openvino",
    ),
    ("targets", [{"runtime": "openvino"}] * 2, "targets.1.runtime: openvino is named twice"),
    ("quant.calibration.images", "synthetic_train", "there is no calibration set synthetic_train"),
    ("quant.calibration.images", "", "quant.calibration.images: "),
    (
        "quant.calibration.images",
        "camvid_train_64",
        "the set camvid_train_64 is of camvid data, the recipe's are synthetic",
    ),
    (
        "quant.keep_float",
        ["decoder.classifeir"],
        "edaformer_nano has no layer 'decoder.classifeir'; did you mean decoder.classifier?",
    ),
    ("quant.keep_float", [""], "quant.keep_float.0: "),
    ("name", "x" * 200, "name: "),
    # options
    (
        "model.options",
        {"drop_pth": 0.1},
        "model.options.drop_pth: edaformer_nano: no such option; did you mean drop_path?",
    ),
    (
        "model.options",
        {"width": 16},
        "no such option; it has drop_path, decoder_drop_path, dropout, upsample",
    ),
    ("model.options", {"drop_path": 1}, "must be a number, at least 0 and below 1, not 1"),
    ("model.options", {"dropout": -0.1}, "at least 0 and below 1, not -0.1"),
    ("model.options", {"dropout": "0.1"}, "at least 0 and below 1, not '0.1'"),
    ("model.options", {"dropout": True}, "at least 0 and below 1, not true"),
    (
        "model.options",
        {"upsample": "bilinar"},
        "must be bilinear or lda_aqu, not 'bilinar'; did you mean bilinear?",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["segformer_nano", {"width": 0}, []],
        "must be an integer, at least 1",
    ),
    ("model.arch+model.options+isr.decoder", ["segformer_nano", {"width": 16.0}, []], "must be an integer"),
    (
        "model.arch+model.options+isr.decoder",
        ["segformer_nano", {"width": 12, "upsample": "lda_aqu"}, []],
        "must be a multiple of 8 with upsample: lda_aqu, not 12",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["vwformer_nano", {"width": 65}, []],
        "must be a multiple of 64, not 65",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["vwformer_nano", {"heads": 3}, []],
        "must divide the width, 64; not 3",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["repsep_nano", {"sasm": "on"}, []],
        "must be none, uniform or attention, not 'on'",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["repsep_nano", {"mask_weight": -1}, []],
        "at least 0 and at most 1000, not -1",
    ),
    # ISR
    (
        "isr.encoder",
        [1, 1, 1],
        "isr.encoder: edaformer_nano's encoder takes 4 multipliers, not 3 (strides 4, 8, 16, 32)",
    ),
    (
        "isr.decoder",
        [],
        "isr.decoder: edaformer_nano's decoder takes 3 multipliers, not 0 (strides 8, 16, 32)",
    ),
    (
        "model.arch+model.options",
        ["segformer_nano", {}],
        "segformer_nano's decoder takes 0 multipliers, not 3 (it has no ISR there: [])",
    ),
    (
        "model.arch+model.options+isr.decoder",
        ["segformer_mobile_nano", {}, []],
        "encoder takes 0 multipliers, not 4",
    ),
    ("isr.encoder", [1, 1, 1, 0], "isr.encoder.3: must be greater than or equal to 1, not 0"),
    ("isr.encoder+quant.qat", [[1, 1, 1, 5], None], "must be a multiple of 160 px"),
    (
        "isr.choose",
        {"knee": True, "latency_ms": 5},
        "give exactly one of max_miou_drop, latency_ms, knee: true; not latency_ms and knee",
    ),
    ("isr.choose", {"knee": False}, "give exactly one of max_miou_drop, latency_ms, knee: true; not none"),
    ("isr.choose", {"latency_ms": 0}, "isr.choose.latency_ms: must be greater than 0"),
    ("isr.finetune_lr_factor+isr.finetune_steps", [1e5, 5], "gives a learning rate of 10: 1e-09 to 1"),
    # image sizes
    (
        "augment.crop_hw",
        [100, 128],
        "augment.crop_hw.0: must be a multiple of 32 px, e.g. 96 or 128, not 100",
    ),
    ("augment.crop_hw", [1 << 40, 128], "augment.crop_hw.0: must be less than or equal to 16384"),
    ("export.size_hw", [128, 130], "export.size_hw.1: must be a multiple of 32 px, e.g. 128 or 160, not 130"),
    ("export.size_hw", [0, 128], "export.size_hw.0: "),
    (
        "isr.encoder+augment.crop_hw+export.size_hw",
        [[2, 1, 1, 1], [96, 128], [128, 128]],
        (
            "must be a multiple of 64 px, e.g. 64 or 128, not 96 at the ISR plan 2,1,1,1-1,1,1, at which"
            " quant.qat trains"
        ),
    ),
    ("export.mask_stride", 3, "export.mask_stride: must be 1, 2, 4 or 8, not 3"),
    ("export.opset", 16, "export.opset: "),
    # data
    ("data.format", "camvids", "did you mean camvid?"),
    ("data.classes", _CLASSES, "data.classes: format synthetic draws its own scenes: null"),
    ("data.train", _SPLIT, "data.train: format synthetic draws its own scenes: null"),
    (
        "data.index_map",
        {"1": 0},
        "data.index_map: format synthetic has its own encoding: only format folders reads this",
    ),
    (
        "data.encoding",
        "palette",
        "data.encoding: format synthetic has its own encoding: only format folders reads this",
    ),
    ("data+quant", [folders(classes=None), None], "data.classes: format folders has no default: give it"),
    ("data+quant", [folders(val=None), None], "data.val: format folders has no default: give it"),
    (
        "data+quant",
        [classes(names=["road", "road"]), None],
        "data.classes.names.1: 'road' is class 0 already",
    ),
    ("data+quant", [classes(names=["road", ""]), None], "data.classes.names.1: "),
    ("data+quant", [classes(names=["road", "  "]), None], "data.classes.names.1: a name that nobody can see"),
    ("data+quant", [classes(names=["road", 5]), None], "data.classes.names.1: must be text, not 5"),
    (
        "data+quant",
        [classes(names=["a", "b", "c"]), None],
        "data.classes.palette_rgb: 2 colours for 3 class names",
    ),
    ("data+quant", [classes(palette_rgb=[[0, 0, 0], [0, 0, 256]]), None], "data.classes.palette_rgb.1.2: "),
    (
        "data+quant",
        [classes(palette_rgb=[[0, 0, 0], [0, 0]]), None],
        "data.classes.palette_rgb.1: needs 3 values, not 2",
    ),
    (
        "data+quant",
        [classes(ignore_index=1), None],
        "data.classes.ignore_index: must lie beyond the classes, from 2 to 255, not 1",
    ),
    ("data+quant", [classes(ignore_index=256), None], "data.classes.ignore_index: "),
    (
        "data+quant",
        [folders(index_map={"3": 2}), None],
        "data.index_map.3: must be a class, 0 to 1, or the ignored 255; not 2",
    ),
    (
        "data+quant",
        [folders(index_map={"70000": 0}), None],
        "data.index_map.70000: label values are 0 to 65535",
    ),
    (
        "data+quant",
        [folders(index_map={"3": 1}, encoding="palette"), None],
        "data.index_map: coloured label files have no values",
    ),
    (
        "data+quant",
        [{**classes(palette_rgb=[[1, 2, 3], [1, 2, 3]]), "encoding": "palette"}, None],
        "data.classes.palette_rgb.1: the colour of class 0: coloured label files would be ambiguous",
    ),
    (
        "data+quant",
        [folders(train={**_SPLIT, "images": "/data/images"}), None],
        "data.train.images: must be a folder below the data",
    ),
    (
        "data+quant",
        [folders(val={**_SPLIT, "labels": "../labels"}), None],
        "data.val.labels: must be a folder below the data root",
    ),
    (
        "data+quant",
        [{"format": "camvid", "classes": _CLASSES, "train": None, "val": None}, None],
        "2 names, and format camvid has 11",
    ),
    (
        "data+quant",
        [
            {
                "format": "idd_lite",
                "classes": {
                    "names": list(_IDD.names[::-1]),
                    "palette_rgb": [list(colour) for colour in _IDD.palette_rgb],
                },
                "train": None,
                "val": None,
            },
            None,
        ],
        (
            "data.classes.names: this list has the classes of format idd_lite in another order: class 0 is"
            " 'sky' in this list"
        ),
    ),
    # augmentation
    ("augment.scale_range", [2.0, 0.5], "augment.scale_range: from low to high, not from 2.0 to 0.5"),
    ("augment.scale_range", [0, 1], "augment.scale_range.0: "),
    ("augment.scale_range", [1, 1e9], "augment.scale_range.1: "),
    ("augment.contrast", [1.5, 0.5], "augment.contrast: from low to high"),
    ("augment.saturation", [1.5, 0.5], "augment.saturation: from low to high"),
    ("augment.flip", 1.5, "augment.flip: "),
    ("augment.max_class_share", 0, "augment.max_class_share: "),
    ("augment.brightness", -1, "augment.brightness: "),
    ("augment.hue", 200, "augment.hue: "),
    ("augment.base_hw", [0, 100], "augment.base_hw.0: "),
    # training
    ("train.steps", 0, "train.steps: "),
    ("train.steps", 10**9, "train.steps: "),
    ("train.batch_size", 0, "train.batch_size: "),
    ("train.batch_size", 1 << 40, "train.batch_size: "),
    ("train.accumulate", 3, "train.batch_size: must be a multiple of accumulate, 3; not 4"),
    (
        "model.arch+model.options+isr.decoder+train.batch_size",
        ["vwformer_nano", {}, [], 1],
        (
            "train.batch_size: vwformer_nano pools one vector an image, which BatchNorm cannot train on one"
            " image"
        ),
    ),
    ("train.warmup_steps", 20, "train.warmup_steps: 20 must be fewer than steps, 20"),
    ("train.warmup_steps", -1, "train.warmup_steps: "),
    ("train.lr", 0, "train.lr: "),
    ("train.lr", -1e-4, "train.lr: "),
    ("train.lr", 1e3, "train.lr: "),
    ("train.lr", 1e-30, "train.lr: "),
    ("train.decoder_lr_factor", 0, "train.decoder_lr_factor: "),
    (
        "train.decoder_lr_factor",
        1e5,
        "train.decoder_lr_factor: gives the decoder a learning rate of 10: 1e-09 to 1",
    ),
    ("train.betas", [0.9, 1.0], "train.betas.1: must be less than 1, not 1.0"),
    ("train.betas", [1, 0.999], "train.betas.0: must be less than 1, not 1"),
    ("train.weight_decay", -0.1, "train.weight_decay: "),
    ("train.weight_decay", 1e6, "train.weight_decay: "),
    ("train.poly_power", 0, "train.poly_power: "),
    ("train.poly_power", -1, "train.poly_power: "),
    ("train.poly_power", 1e300, "train.poly_power: "),
    ("train.clip_norm", 0, "train.clip_norm: "),
    ("train.ohem_keep", 0, "train.ohem_keep: must be greater than 0, not 0"),
    ("train.ohem_keep", 1.5, "train.ohem_keep: "),
    ("train.class_weights", [0] * 10, "train.class_weights: no weight is above 0: nothing would be learned"),
    ("train.class_weights", [1, 1], "train.class_weights: 2 weights for 10 classes (format synthetic)"),
    ("train.class_weights", [], "train.class_weights: no weights: one for each class, or null"),
    ("train.class_weights", [-1] + [1] * 9, "train.class_weights.0: "),
    ("train.class_weights", [1e300] + [1] * 9, "train.class_weights.0: "),
    ("train.ema_decay", 1, "train.ema_decay: must be less than 1, not 1"),
    ("train.amp", "fp16", "train.amp: "),
    ("train.seed", -1, "train.seed: "),
    ("train.val_every", 0, "train.val_every: "),
    ("train.checkpoint_every", 0, "train.checkpoint_every: "),
    ("train.patience", 0, "train.patience: "),
    ("train.init_skip", [""], "train.init_skip.0: "),
    # INT8
    ("quant.calibration.percentile", 50, "quant.calibration.percentile: "),
    ("quant.calibration.percentile", 101, "quant.calibration.percentile: "),
    ("quant.calibration.method", "kl", "quant.calibration.method: "),
    ("quant.min_coverage", 95, "quant.min_coverage: must be less than or equal to 1, not 95"),
    ("quant.max_miou_drop", -0.1, "quant.max_miou_drop: "),
    ("quant.qat.steps", 2, "quant.qat.warmup_steps: 2 must be fewer than steps, 2"),
    ("quant.qat.lr", 0, "quant.qat.lr: "),
    ("quant.qat.temperature", 0, "quant.qat.temperature: "),
    ("quant.qat.temperature", 1e-300, "quant.qat.temperature: "),
    ("quant.qat.distill_weight", 1.1, "quant.qat.distill_weight: "),
    ("quant.qat.batch_size", 0, "quant.qat.batch_size: "),
    ("quant.qat.val_every", 0, "quant.qat.val_every: "),
    # gate
    ("gate.max_miou_drop", 1.5, "gate.max_miou_drop: "),
    ("gate.min_mask_agreement", 99, "gate.min_mask_agreement: must be less than or equal to 1, not 99"),
]
"""(dotted path, or several joined by `+`, the wrong value or values, what is told)."""
