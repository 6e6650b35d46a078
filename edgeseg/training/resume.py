"""Whether a run may go on: with which recipe and which data it was made, and what has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from edgeseg.contracts import SegDataset
from edgeseg.data.datasets import FolderDataset
from edgeseg.errors import DataError
from edgeseg.recipe.load import catalogue
from edgeseg.recipe.schema import Recipe
from edgeseg.text import quoted

HASHED_BYTES = 1 << 28
"""Of a split up to this size the contents count; of a larger one names and sizes of the files."""
_SHOWN = 6


def data_facts(train_set: SegDataset, val_set: SegDataset) -> dict[str, Any]:
    """What a run is made with: classes, and number and digest of the samples of each split, as JSON
    values.
    """
    splits = {
        name: {"samples": len(s), "sha256": _digest(s)}
        for name, s in (("train", train_set), ("val", val_set))
    }
    return {"classes": list(train_set.labels.names), **splits}


def _digest(dataset: SegDataset) -> str:
    digest = hashlib.sha256()
    files = (
        [path for sample in dataset.samples for path in (sample.image, sample.label)]
        if isinstance(dataset, FolderDataset)
        else []
    )
    sizes = [_size(path) for path in files]
    whole = sum(sizes) <= HASHED_BYTES
    digest.update(json.dumps([dataset.name(index) for index in range(len(dataset))]).encode())
    for path, size in zip(files, sizes, strict=True):
        digest.update(size.to_bytes(8, "little"))
        if whole and size:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the reader names it when it is its turn
        return 0


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> list[str]:
    """What is not as it was when a state was saved, for people; empty where all is, or where the state does
    not say.

    Raises:
        DataError: the classes are other ones: the weights would mean something else.
    """
    if before and before["classes"] != now["classes"]:
        raise DataError(
            f"{path} was trained for the classes {', '.join(before['classes'])}; the data now has"
            f" {', '.join(now['classes'])}",
            hint="choose another folder with --out, or start anew with --fresh (the old run is kept aside)",
        )
    told = []
    for split in ("train", "val"):
        was, has = before.get(split), now.get(split)
        if was and has and was != has:
            count = (
                f"{was['samples']} -> {has['samples']} samples"
                if was["samples"] != has["samples"]
                else "the same names"
            )
            told.append(f"{split}: {count}, other content")
    return told


def other_recipe(run_dir: Path, recipe_text: str, recipe: Recipe) -> DataError:
    """That a run was made with another recipe: what differs, and how to go on from its weights."""
    changed = _changed_keys(run_dir / "recipe.yaml", recipe_text)
    shown = "; ".join(changed[:_SHOWN]) + (
        f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    )
    best = run_dir / "best.safetensors"
    hint = "choose another folder with --out, or start anew with --fresh (the old run is kept aside)"
    if _is_float(best):
        fresh = next(
            p for n in range(2, 10_000) if not (p := run_dir.with_name(f"{run_dir.name}_{n}")).exists()
        )
        name = recipe.name if recipe.name in catalogue() else "RECIPE"
        command = f"edgeseg train {quoted(name)} --data-root DIR --init {quoted(best)} --out {quoted(fresh)}"
        hint = (
            f"a run goes on with its own recipe; to train its weights further with this one:\n  {command}\nor"
            f" {hint}"
        )
    return DataError(
        f"{run_dir} holds a run that was made with another recipe" + (f": {shown}" if shown else ""),
        hint=hint,
    )


def _is_float(best: Path) -> bool:
    try:
        with safe_open(best, framework="np") as file:
            header = json.loads((file.metadata() or {}).get("edgeseg", "{}"))
    except (OSError, SafetensorError, ValueError):
        return False
    return isinstance(header, dict) and header.get("kind") == "weights"


def _changed_keys(then: Path, now: str) -> list[str]:
    try:
        before, after = _flat(yaml.safe_load(then.read_text(encoding="utf-8"))), _flat(yaml.safe_load(now))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    names = [
        key
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    ]
    return [f"{key} {_short(before.get(key))} -> {_short(after.get(key))}" for key in names]


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {where: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{where}.{key}" if where else str(key))
    return flat


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
