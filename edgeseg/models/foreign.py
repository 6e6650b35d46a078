"""Reading weight files that came from elsewhere, whatever they are called, without running anything that they
hold.

torch files go through torch's restricted unpickler, with inert stand-ins for the data classes that trainings
leave beside their weights (`standins`); any other global is refused, and named with the line that converts
the file where it is trusted.
"""

from __future__ import annotations

import json
import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgeseg.errors import DataError
from edgeseg.file_kinds import HEAD_BYTES, Kind, kind_of_bytes
from edgeseg.models.refusals import LEGACY_MAGIC, convert_script_hint, plain_hint, refusal, unreadable_pickle
from edgeseg.models.standins import ALWAYS, NumpyArray, stand_in

_SHOWN = 10
_DEPTH = 5
_LIST = 16
"""Members of a list that are looked at."""
_AVERAGED = "state_dict_ema model_ema ema ema_model model_ema_state_dict params_ema averaged_model"
_RAW = "state_dict ema_state_dict model_state_dict model module net network generator netG"
_ENTRIES = (*_AVERAGED.split(), *_RAW.split(), "teacher", "student", "weights", "params")
"""Entries that hold the weights, best first: averaged weights are what their authors evaluate. mmengine swaps
the two before it saves: its `state_dict` is the average, its `ema_state_dict` the raw weights."""
_COUNTERS = [
    "n_averaged",
    "steps",
    "epoch",
    "iter",
    "iteration",
    "global_step",
    "best_fitness",
    "updates",
    "decay",
]
"""What trainings and averaging keep beside the weights."""
_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|random|callback|loops|hparams|hyper_param|message_hub|^(meta|args|cfg|config|amp|grad\w*)$|discrim",
    re.IGNORECASE,
)

_UNREADABLE = (
    *(
        pickle.UnpicklingError,
        SafetensorError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
        MemoryError,
        OverflowError,
    ),
    *(
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        AssertionError,
        ArithmeticError,
        struct.error,
    ),
)
"""What the readers raise; the second line is what torch's unpickler lets through on bytes that are no
checkpoint.
"""

_OTHER_FRAMEWORKS = {
    ".onnx": "an ONNX model",
    ".pb": "a TensorFlow graph",
    ".index": "a TensorFlow checkpoint",
    ".h5": "Keras weights",
    ".keras": "a Keras model",
    ".tflite": "a TensorFlow Lite model",
    ".pdparams": "PaddlePaddle weights",
    ".caffemodel": "Caffe weights",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model",
    ".xml": "an OpenVINO model",
    ".weights": "Darknet weights",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Tensors by name, and where in the file they were; the empty string for the file itself."""

    name: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A weight file, read.

    Attributes:
        entries: every group of tensors that may be a model, the likeliest first; at least one.
        facts: what lies beside the tensors at the file's top: `meta` of mmcv and mmengine, `epoch` and the
            like, as plain values.
    """

    entries: tuple[Entry, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The likeliest model of a foreign checkpoint, as `read_foreign` reads it."""
    return read_foreign(path).entries[0].tensors


def read_foreign(path: Path) -> Foreign:
    """Read a checkpoint that came from elsewhere: a torch file, safetensors, .npz, or a folder of Hugging
    Face.

    Its content decides what it is, not its name. Pickled code is refused by the reader and never run.

    Raises:
        DataError: missing, truncated or unreadable, another kind of file, one of ours, or one that holds a
            global that is not known to be data.
    """
    if path.is_dir():
        return _sorted_entries(path, _read_folder(path))
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path of the checkpoint")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        return _sorted_entries(path, _reader_of(path, head)(path))
    except DataError:
        raise
    except _UNREADABLE as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        cut = re.search(
            r"unexpected E(OF|nd)|incomplete|not fully covered|corrupt|ran out of input",
            reason,
            re.IGNORECASE,
        )
        again = "copy or download the file again: it is damaged or cut short"
        hint = again if cut or path.suffix == ".safetensors" else plain_hint(path)
        raise DataError(f"{path}: not a checkpoint of plain tensors: {reason}", hint=hint) from error


def is_foreign(path: Path) -> bool:
    """Whether a file is a checkpoint that `read_foreign` is for, by its first bytes, and not one of ours or
    no checkpoint.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        return _reader_of(path, head) is not _read_safetensors
    except (DataError, OSError):
        return False


def _reader_of(path: Path, head: bytes) -> Callable[[Path], Any]:
    """Raises DataError for what is no checkpoint, naming what it is."""
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return _read_safetensors
    if head[:4] == b"PK\x03\x04":
        return _read_zip
    kind = kind_of_bytes(head, path)
    if kind is not None and kind.name == "a tar archive":
        return _read_torch  # torch before 0.1.10; torch says what to do
    suffix = path.suffix.lower()
    if head[:1] == b"\x80" and (LEGACY_MAGIC in head[:32] or suffix not in _OTHER_FRAMEWORKS):
        return _read_torch
    if kind is None and suffix == ".safetensors":
        return _read_safetensors
    if suffix in _OTHER_FRAMEWORKS and (kind is None or not kind.cure):
        kind = Kind(
            kind.name if kind and "model" in kind.name else _OTHER_FRAMEWORKS[suffix],
            "take the torch file (.pth, .safetensors) that it was made from",
        )
    if kind is None and head[:1] == b"\x80":
        return _read_torch
    if kind is None:
        raise DataError(
            f"{path}: not a checkpoint of plain tensors: its first bytes are of no kind of checkpoint",
            hint="take a torch checkpoint (.pth, .pt, .ckpt, .bin) or a .safetensors file",
        )
    raise DataError(
        f"{path}: not a checkpoint of plain tensors, but {kind.name}",
        hint=kind.cure or "take a torch checkpoint (.pth, .pt, .ckpt, .bin) or a .safetensors file",
    )


def _read_zip(path: Path) -> Any:
    """A torch file is a zip archive, and so are TorchScript, .npz, Keras models and packed files."""
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path}: cut short after {path.stat().st_size} bytes: the end of the file is missing",
            hint="copy or download the file again",
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last:
        if "constants.pkl" in last:
            raise DataError(
                f"{path}: a TorchScript archive: it holds a program beside its weights, and is not opened"
                " here",
                hint=convert_script_hint(path),
            )
        return _read_torch(path)
    if names and all(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    inside = ", ".join(names[:3])
    if "model.weights.h5" in last:
        raise DataError(
            f"{path}: a Keras model, not a checkpoint of torch",
            hint="take the torch file that it was made from",
        )
    raise DataError(
        f"{path}: a zip archive with {len(names)} files ({inside}), not a checkpoint",
        hint=f"unpack it, and give the file in it: unzip {shlex.quote(str(path))}",
    )


def _read_torch(path: Path) -> Any:
    """Load with stand-ins for what is known to be data. Raises DataError naming what is refused, and what
    torch raises.
    """
    inert: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in ALWAYS}
    try:
        with open(
            path, "rb"
        ) as file:  # by its name torch would take a .safetensors file for what it is called
            named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except _UNREADABLE:
        named = []  # of the old formats they are found one by one
    while True:
        refused = [name for name in named if name not in inert and stand_in(name) is None]
        if refused:
            raise refusal(path, refused)
        inert |= {name: stand_in(name) for name in named if name not in inert}
        try:
            with (
                warnings.catch_warnings(),
                torch.serialization.safe_globals([(kind, name) for name, kind in inert.items()]),
            ):
                # Of other pickle protocols it reads what it knows, and fails at the rest; of old storages it
                # only complains.
                warnings.simplefilter("ignore", UserWarning)
                with open(path, "rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+) w", str(error))
            if found is None:
                raise unreadable_pickle(path, str(error)) from error
            name = found[1] if "." in found[1] else f"builtins.{found[1]}"
            if name in inert:
                raise
            named = [name]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        if "edgeseg" in (file.metadata() or {}):
            raise DataError(
                f"{path}: is a checkpoint of edgeseg", hint="use it as it is: --checkpoint or --init takes it"
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _read_folder(folder: Path) -> dict[str, Any]:
    """A model folder of Hugging Face: whole or in shards."""
    if (folder / ".metadata").is_file() or any(folder.glob("*.distcp")):
        raise DataError(
            f"{folder}: a distributed checkpoint (FSDP), in pieces",
            hint=(
                "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
                f"{shlex.quote(str(folder))} {shlex.quote(str(folder.with_suffix('.pth')))}"
            ),
        )
    if (folder / "data.pkl").is_file() or any(folder.glob("*/data.pkl")):
        raise DataError(
            f"{folder}: a torch checkpoint that was unpacked, as some browsers do",
            hint=(
                f"pack it again: cd {shlex.quote(str(folder.parent))} && zip -0 -r "
                f"{shlex.quote(folder.name + '.pth')} {shlex.quote(folder.name)}"
            ),
        )
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _joined(folder, [folder / name])
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                return _joined(folder, [folder / Path(str(part)).name for part in parts])
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                raise DataError(
                    f"{index}: not a list of shards: {error}", hint="download the folder again"
                ) from error
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:_SHOWN]) or "nothing"
    raise DataError(
        f"{folder}: a folder that holds no checkpoint, but {held}", hint="give the checkpoint file itself"
    )


def _joined(folder: Path, parts: list[Path]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for part in parts:
        if not part.is_file():
            raise DataError(
                f"{part}: missing; {folder} is in {len(parts)} parts", hint="download the folder again, whole"
            )
        tensors |= read_foreign(part).entries[0].tensors
    return tensors


def _sorted_entries(path: Path, loaded: Any) -> Foreign:
    """Raises DataError where there are no tensors at all."""
    found = list(_groups(loaded, (), set()))
    if not found:
        held = (
            f"{', '.join(list(map(str, loaded))[:_SHOWN])}"
            if isinstance(loaded, Mapping)
            else type(loaded).__name__
        )
        raise DataError(
            f"{path}: holds no tensors, but {held or 'nothing'}",
            hint="re-save it as plain tensors: torch.save(model.state_dict(), FILE), or as safetensors",
        )

    def rank(group: tuple[tuple[str, ...], dict[str, Tensor]]) -> tuple[Any, ...]:
        where, tensors = group
        named = tuple(_ENTRIES.index(part) if part in _ENTRIES else len(_ENTRIES) for part in where)
        unknown = not where or len(_ENTRIES) in named
        return unknown, bool(where) and unknown, named, -sum(tensor.numel() for tensor in tensors.values())

    facts = (
        {str(k): v for k, v in loaded.items() if not isinstance(v, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    return Foreign(
        tuple(Entry(".".join(where), tensors) for where, tensors in sorted(found, key=rank)), facts
    )


def _groups(
    value: Any, where: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary that holds tensors, and the path to it; parts of one model that were saved apart also
    together.
    """
    if isinstance(value, list | tuple):
        value = {str(number): item for number, item in enumerate(value[:_LIST])}
    if not isinstance(value, dict) or len(where) > _DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    tensors: dict[str, Tensor] = {}
    for key, item in value.items():
        tensor = item.tensor() if isinstance(item, NumpyArray) else item
        if isinstance(key, str) and key not in _COUNTERS and isinstance(tensor, Tensor):
            tensors[key] = tensor.detach()
    inner = [
        (key, [*_groups(item, (*where, key), seen)])
        for key, item in value.items()
        if isinstance(key, str) and not _NO_WEIGHTS.search(key)
    ]
    parts = {
        key: group
        for key, groups in inner
        for place, group in groups
        if key not in _ENTRIES and place == (*where, key) and group
    }
    if not tensors and len(parts) > 1 and not any(key.isdecimal() for key in parts):
        tensors = {f"{key}.{name}": tensor for key, group in parts.items() for name, tensor in group.items()}
    if tensors:
        yield where, tensors
    for _, groups in inner:
        yield from groups
