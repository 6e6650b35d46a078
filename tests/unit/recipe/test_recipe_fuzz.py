"""A recipe with one thing changed is right, and then trains; or it is refused by file and line. Never a
traceback, never late.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broken_recipes import good
from edgeseg.contracts import SegDataset
from edgeseg.errors import RecipeError
from edgeseg.pipeline.recipes import load_recipe
from edgeseg.recipe.architectures import CATALOGUE
from edgeseg.recipe.load import dump_yaml
from edgeseg.recipe.load import load_recipe as load_alone
from edgeseg.recipe.schema import Recipe
from edgeseg.training.float import train

SMALL = [name for name in CATALOGUE if name.endswith("_nano")]
VALUES: list[Any] = [
    *(None, True, False, "", "x", "null", [], {}, [1], [1, 2], [0.5, 0.9], {"a": 1}),
    *(-1, 0, 1, 2, 3, 32, 64, 255, 1 << 40, -0.5, 0.0, 1e-300, 1e-9, 1e-4, 0.5, 1.0, 1.5, 50.0, 1e6, 1e300),
]


def whole(arch: str) -> dict[str, Any]:
    """A recipe of a small model with every default written out, as plain values."""
    data = good()
    data["model"] = {
        "arch": arch,
        "options": {name: option.default for name, option in CATALOGUE[arch].options.items()},
    }
    data["augment"]["crop_hw"] = data["export"]["size_hw"] = [64, 64]
    data["isr"] |= {part: [1] * len(stages) for part, stages in CATALOGUE[arch].stages.items()}
    data["train"] |= {
        "batch_size": 2,
        "class_weights": [1.0] * 10,
        "ema_decay": 0.9,
        "ohem_keep": 0.5,
        "clip_norm": 1.0,
    }
    return Recipe.model_validate(data).model_dump(mode="json")


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, inside in (
        data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    ):
        yield (*path, key)
        yield from places(inside, (*path, key))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A recipe with one or two values dropped, renamed, or put in place of others."""
    data = copy.deepcopy(whole(draw(st.sampled_from(SMALL))))
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from(list(places(data))))
        here = data
        for key in parents:
            here = here[key]  # type: ignore[index]
        how = draw(st.sampled_from(["put", "put", "put", "drop", "rename"]))
        if how == "put":
            here[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))  # type: ignore[index]
        elif isinstance(here, dict):
            value = here.pop(last)
            if how == "rename":
                here[f"{last}s"] = value
        else:
            here.pop(int(last))
    return data


def loaded(folder: Path, data: dict[str, Any]) -> Recipe | None:
    """The recipe; None where it is refused, in order."""
    file = folder / "recipe.yaml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    try:
        return load_recipe(file)
    except RecipeError as error:
        header, *told = str(error).splitlines()
        assert told
        assert header.startswith(f"{len(told)} mistake")
        assert all(line.startswith(f"{file}:") and line[len(f"{file}:")].isdigit() for line in told), told
        return None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=changed())
def test_what_is_changed_is_right_or_told_by_line(tmp_path: Path, data: dict[str, Any]) -> None:
    recipe = loaded(tmp_path, data)
    if recipe is not None:
        again = tmp_path / "again.yaml"
        again.write_text(dump_yaml(recipe.model_dump(mode="json")), encoding="utf-8")
        assert load_alone(again) == recipe


class Few:
    """The first scenes of a data set."""

    def __init__(self, dataset: SegDataset) -> None:
        self.labels, self.name, self.load = dataset.labels, dataset.name, dataset.load

    def __len__(self) -> int:
        return 4


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=changed())
def test_what_is_right_trains(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    recipe = loaded(folder, data)
    if recipe is None or recipe.data.format != "synthetic":
        return
    from edgeseg.training import loop

    with monkeypatch.context() as patch:
        opened = loop.open_dataset
        patch.setattr(loop, "open_dataset", lambda *args: Few(opened(*args)))
        schedule = recipe.train.model_copy(update={"steps": 2, "warmup_steps": 0, "val_every": 2})
        result = train(recipe.model_copy(update={"train": schedule}), folder, folder / "run", workers=0)
    assert result.step == 2
    assert all(bool(torch.isfinite(value).all()) for value in _weights(result.best).values())


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from edgeseg.checkpoints.file import load_checkpoint

    return load_checkpoint(path).tensors
