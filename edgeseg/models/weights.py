"""Published checkpoints: recognising their layout, and strict loading. `foreign` reads the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.errors import DataError, RecipeError
from edgeseg.models.catalog import CATALOGUE, build_model, model_options
from edgeseg.models.class_names import label_space_of
from edgeseg.models.foreign import Entry, read_foreign
from edgeseg.models.keymap import KeyMap
from edgeseg.models.keymaps import DECODERS, ENCODERS
from edgeseg.recipe.labels import Held

_SHOWN = 10
_PREFIXES = (
    "model_ema",
    "ema_model",
    "ema",
    "teacher",
    "model",
    "module",
    "net",
    "network",
    "generator",
    "student",
)
"""Names that a model has within what was saved, best first, where one file holds several."""
_ASIDE = re.compile(
    r"(^|\.)(criterion|criteria|loss|losses|loss_\w+|\w+_loss|aux|aux_\w+|auxiliary\w*|data_preprocessor|metrics?|\w+_metrics?"
    r"|(train|val|valid|test)_(iou|miou|acc|dice|f1)\w*|pixel_(mean|std)|class_weights?|confmat)(\.|$)"
)
"""Names of what trainings keep beside a model: losses with their weights, heads for training alone, metrics,
normalisation.
"""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layouts of a published file's parts; None for a part that it does not hold, or that is not
    known.
    """

    encoder: KeyMap | None
    decoder: KeyMap | None

    def __str__(self) -> str:
        found = [part for part in (self.decoder, self.encoder) if part is not None]
        if not found:
            return "no layout that is known"
        models = " on ".join(part.model for part in found) if self.decoder else f"{found[0].model} alone"
        return f"{models} ({', '.join(dict.fromkeys(part.layout for part in found))} layout)"


@dataclass(frozen=True, slots=True)
class Imported:
    """A published checkpoint in our names.

    Attributes:
        tensors: of the whole model, or of `encoder.*` alone where the file holds no decoder.
        layout: what the file looked like.
        num_classes: None without a decoder.
        options: model options that the file implies; a recipe for it needs the same in `model.options`.
        parameters: how many the tensors hold, buffers not counted.
        entry: where in the file they were; empty for the file itself.
        others: further models in the file, which were not taken.
        aside: names of tensors that are no part of the model, such as a loss's class weights.
        classes: names and colours of its classes, as far as the file tells them.
    """

    tensors: dict[str, Tensor]
    layout: str
    num_classes: int | None
    options: dict[str, Any]
    parameters: int
    entry: str = ""
    others: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    classes: Held = field(default_factory=lambda: Held(published=True))


def to_our_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layout]:
    """Our names and shapes for a published state dict, and the layout it was in. Unknown keys keep their
    name.

    Raises:
        DataError: two tensors get one name.
    """
    ours = _models_of(state)[0].tensors
    layout = Layout(
        next((keymap for keymap in ENCODERS if keymap.recognises(ours)), None),
        next((keymap for keymap in DECODERS if keymap.recognises(ours)), None),
    )
    for keymap in (layout.encoder, layout.decoder):
        if keymap is not None:
            renamed = ((keymap.rename(key), value) for key, value in ours.items())
            ours = keymap.arrange(_unique((key, value) for key, value in renamed if key is not None))
    return ours, layout


def _models_of(state: Mapping[str, Tensor]) -> list[Entry]:
    """The models in one state dict, each without the names of what held it, the likeliest first.

    A model's place is where an encoder is recognised: `net.` where the keys are `net.backbone.block1...`.
    Tensors outside of it stay with it under their own names, so that strict loading reports them.
    """
    ours = _unique(
        (re.sub(r"^((module|model|_orig_mod)\.)+", "", key), value) for key, value in state.items()
    )
    roots = sorted({root for key in ours if (root := _root(key, ENCODERS)) is not None}, key=_root_rank)
    heads = {root for key in ours if (root := _root(key, DECODERS)) is not None}
    models = []
    for root in roots or [""]:
        inner = [other for other in roots if other != root and other.startswith(root)]
        outer = [other for other in roots if other != root and not root.startswith(other)]
        # A head that lies elsewhere than its encoder belongs to it where there is no other.
        head = root if root in heads or len(heads) != 1 or len(roots) > 1 else next(iter(heads))
        own = []
        for key, value in ours.items():
            if any(key.startswith(other) for other in (*inner, *outer) if other):
                continue
            place = next((p for p in sorted({root, head}, key=len, reverse=True) if key.startswith(p)), "")
            own.append((_unwrapped(key[len(place) :]), value))
        models.append(Entry(root.rstrip("."), _unique(own)))
    return models


def _root(key: str, keymaps: Sequence[KeyMap]) -> str | None:
    """What stands before the first name that a layout knows; None where none does."""
    place = 0
    while True:
        if any(re.match(keymap.sign, key[place:]) for keymap in keymaps):
            return key[:place]
        dot = key.find(".", place)
        if dot < 0:
            return None
        place = dot + 1


def _root_rank(root: str) -> tuple[int, int, str]:
    ranks = [_PREFIXES.index(part) for part in root.split(".") if part in _PREFIXES]
    return min(ranks, default=len(_PREFIXES) if root else _PREFIXES.index("model")), len(root), root


def _unwrapped(key: str) -> str:
    """Without the names of wrappers that stand amid it: torch.compile's, DistributedDataParallel's,
    FSDP's.
    """
    return re.sub(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.", r"\1", key)


def _unique(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in pairs:
        if key in state:
            raise DataError(
                f"two tensors of the file are {key}", hint="save one model's state dict, without its copies"
            )
        state[key] = value
    return state


def load_strict(model: nn.Module, state: Mapping[str, Tensor], allow_missing: Sequence[str] = ()) -> None:
    """Load a state dict whole or not at all.

    Args:
        allow_missing: glob patterns of parameters that may keep their present value.
    Raises:
        DataError: missing, unexpected or mis-shaped tensors, the first ten of each and the count.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state and not any(fnmatchcase(k, p) for p in allow_missing)]
    unexpected = [k for k in state if k not in own]
    misshaped = [
        f"{k} {tuple(state[k].shape)}, model {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped)):
        if keys:
            more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            problems.append(f"{len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}")
    if problems:
        raise DataError(
            "the weights do not fit the model: " + "; ".join(problems),
            hint="check the architecture and the number of classes the file was trained with",
        )
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def load_upstream(
    model: nn.Module, state_dict: Mapping[str, Tensor], allow_missing: Sequence[str] = ()
) -> None:
    """Load a published checkpoint's state dict into our model. Raises DataError naming the keys that do not
    fit.
    """
    load_strict(model, to_our_keys(state_dict)[0], allow_missing)


def import_upstream(
    path: Path, arch: str, allow_missing: Sequence[str] = (), entry: str | None = None
) -> Imported:
    """Read a published checkpoint for a catalogue model; its classes are counted in the file.

    Of several models in the file the likeliest that fits is taken: averaged weights before raw ones.

    Args:
        allow_missing: glob patterns of our parameters that the file may lack; they keep fresh values.
        entry: name of the model to take, as `Imported.entry` and `others` name them.
    Raises:
        RecipeError: unknown architecture.
        DataError: the file's layout is not known, or is another architecture's, or its tensors do not fit; no
            such entry.
    """
    with torch.device("meta"):
        build_model(arch, 1)
    file = read_foreign(path)
    found = [
        Entry(".".join(filter(None, (outer.name, inner.name))), inner.tensors)
        for outer in file.entries
        for inner in _models_of(outer.tensors)
    ]
    names = [model.name for model in found]
    if entry is not None:
        if entry not in names:
            raise DataError(f"{path}: no entry {entry!r}", hint=f"it has: {', '.join(map(repr, names))}")
        found = [model for model in found if model.name == entry]
    first: DataError | None = None
    for model in found:
        try:
            imported = _fitted(path, arch, model, allow_missing)
        except DataError as error:
            first = first or error
            continue
        others = tuple(other.name for other in found if other.name != model.name and _holds_a_model(other))
        classes = (
            label_space_of(file.facts, path, imported.num_classes)
            if imported.num_classes
            else imported.classes
        )
        return replace(imported, entry=model.name, others=others, classes=classes)
    assert first is not None  # a file has at least one entry
    raise first


def _holds_a_model(entry: Entry) -> bool:
    return any(keymap.recognises(entry.tensors) for keymap in ENCODERS)


def _fitted(path: Path, arch: str, model: Entry, allow_missing: Sequence[str]) -> Imported:
    """One model of a file, as `import_upstream` gives it. Raises DataError where it is not `arch`."""
    with torch.device("meta"):
        parts = build_model(arch, 1)
    state, layout = to_our_keys(model.tensors)
    aside = tuple(key for key in state if _ASIDE.search(key))
    state = {key: value for key, value in state.items() if key not in aside}
    if layout.encoder is None:
        known = dict.fromkeys(f"{keymap.model} ({keymap.layout})" for keymap in (*ENCODERS, *DECODERS))
        keys = ", ".join(list(state)[:_SHOWN])
        raise DataError(
            f"{path}: its layout is not known; its keys start with {keys}", hint=f"known: {', '.join(known)}"
        )
    classifier = state.get("decoder.classifier.weight")
    if layout.decoder is not None and classifier is None:
        raise DataError(f"{path}: {layout} without a classifier", hint="take a file that was saved with it")
    found = {} if layout.decoder is None else layout.decoder.options(state)
    num_classes = None if classifier is None else classifier.shape[0]
    kinds = [(parts.encoder, layout.encoder), (parts.decoder, layout.decoder)]
    if any(keymap is not None and type(ours) is not keymap.part for ours, keymap in kinds):
        raise DataError(f"{path}: looks like {layout}, not {arch}", hint=_fitting(state, num_classes, found))
    _require_floats(path, state)
    defaults = model_options(arch)
    options = {name: value for name, value in found.items() if value != defaults[name]}
    built = build_model(arch, num_classes or 1, **options)
    # Counters of batches have no effect on a trained model; half-precision exports and old files lack them.
    lacking = ("*.num_batches_tracked", *(() if layout.decoder else ("decoder.*",)), *allow_missing)
    try:
        load_strict(built, state, lacking)
    except DataError as error:
        raise DataError(
            f"{path}, {layout}, is not {arch}: {error}", hint=_fitting(state, num_classes, found)
        ) from error
    prefix = "" if layout.decoder else "encoder."
    return Imported(
        {name: value for name, value in built.state_dict().items() if name.startswith(prefix)},
        str(layout),
        num_classes,
        options,
        sum(value.numel() for name, value in built.named_parameters() if name.startswith(prefix)),
        aside=aside,
    )


def _require_floats(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises DataError for weights that are integers, or no numbers."""
    weights = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    whole = [name for name, value in weights.items() if value.dtype not in _FLOATS]
    if whole:
        kinds = ", ".join(dict.fromkeys(str(weights[name].dtype).removeprefix("torch.") for name in whole))
        raise DataError(
            f"{path}: {len(whole)} of {len(weights)} tensors are {kinds}, such as {whole[0]}: quantized, not"
            " to train from",
            hint="take the float checkpoint that it was made from; `edgeseg quantize` makes INT8 of that",
        )
    broken = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise DataError(
            f"{path}: NaN or infinity in {len(broken)} tensors, such as {broken[0]}",
            hint="take an earlier checkpoint of that run",
        )


def _fitting(state: Mapping[str, Tensor], num_classes: int | None, options: Mapping[str, Any]) -> str:
    """A hint: the architectures whose tensors are exactly these, or the nearest one.

    Args:
        options: what the layout tells of the model's options.
    """
    shapes = {name: value.shape for name, value in state.items()}
    shared: dict[str, float] = {}
    for name in CATALOGUE:
        with torch.device("meta"):
            try:
                model = build_model(
                    name, num_classes or 1, **{k: v for k, v in options.items() if k in model_options(name)}
                )
            except RecipeError:  # its options cannot be these
                model = build_model(name, num_classes or 1)
        whole = model if num_classes else nn.ModuleDict({"encoder": model.encoder})
        own = {
            key: value.shape
            for key, value in whole.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        same = sum(shapes.get(key) == shape for key, shape in own.items())
        theirs = sum(not key.endswith("num_batches_tracked") for key in shapes)
        shared[name] = same / max(len(own), theirs, 1)
    fitting = [name for name, share in shared.items() if share == 1]
    if fitting:
        return f"--arch {' or '.join(fitting)} takes this file"
    nearest = max(shared, key=lambda name: shared[name])
    near = (
        f"the nearest is --arch {nearest}, with {100 * shared[nearest]:.0f} % of the tensors alike; "
        if shared[nearest]
        else ""
    )
    return (
        f"no model here takes this file whole; {near}--allow-missing GLOB lets parameters of ours keep fresh"
        " values"
    )
