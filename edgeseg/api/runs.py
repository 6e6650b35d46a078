"""A training and what is made of it: search, quantization, export. Asks for torch when it is called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.api.model import Model
from edgeseg.api.places import Place, maybe_path, path_of
from edgeseg.bundle import Bundle
from edgeseg.contracts import Progress
from edgeseg.errors import DataError, RecipeError, require
from edgeseg.recipe import load
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import IsrPlan
from edgeseg.text import plain, quoted

if TYPE_CHECKING:
    from edgeseg.int8_study.sensitivity_study import SensitivityResult
    from edgeseg.isr.finetune import Finetuned
    from edgeseg.isr.search import SearchResult
    from edgeseg.pipeline.quantize import Quantization
    from edgeseg.training.loop import TrainResult

_WEIGHTS = ".safetensors"
_BEST, _QUANTIZED = "best.safetensors", "quantized.safetensors"


@dataclass(frozen=True)
class Run:
    """A recipe, the folder of its training, and the weights that it left.

    Attributes:
        checkpoint: the best weights; they need not be there yet.
        data: folder that the recipe's data paths start from; None: each call is told.
    """

    recipe: Recipe
    folder: Path
    checkpoint: Path
    data: Path | None = None

    @property
    def quantized(self) -> tuple[Path, ...]:
        """The quantized weights of this run: those of all levels, then those of a level's own."""
        first = self.folder / _QUANTIZED
        return (first, *sorted(self.folder.glob("quantized-*.safetensors"))) if first.is_file() else ()

    @property
    def miou(self) -> float | None:
        """Best validation mIoU of the training, a fraction; None before the first validation."""
        return max((row["miou"] for row in self.curve() if "miou" in row), default=None)

    def curve(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl: `step`, and the figures of that step."""
        from edgeseg.journal import read_rows

        path = self.folder / "metrics.jsonl"
        return read_rows(path) if path.is_file() else []

    def search_isr(
        self,
        *,
        levels: int = 1,
        data: Place | None = None,
        out: Place | None = None,
        precision: str = "float",
        quantized: Place | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> SearchResult:
        """Choose ISR plans by accuracy and time measured on this device; as `edgeseg isr`.

        Args:
            levels: plans of the front to keep.
            precision: "float", or "int8" for engines of the quantized weights.
            options: of `isr.search.SearchOptions`: strategy, plans, limit, rounds, max_plans, runtime, ...
        """
        require("torch", extra="train", purpose="search ISR plans")
        from edgeseg.isr.search import SearchOptions, search

        int8 = precision == "int8"
        weights = (Path(quantized) if quantized else self.folder / _QUANTIZED) if int8 else None
        wanted = SearchOptions(levels=levels, quantized=weights, **options)
        folder = Path(out) if out else self.folder / ("isr-int8" if int8 else "isr")
        return search(self.recipe, self.checkpoint, self._data(data), folder, wanted, progress=progress)

    def finetune_isr(
        self, plan: IsrPlan | str, *, data: Place | None = None, out: Place | None = None, **options: Any
    ) -> Finetuned:
        """Train on for `isr.finetune_steps` with a plan in force; as `edgeseg isr --finetune`."""
        require("torch", extra="train", purpose="train on with a plan")
        from edgeseg.isr.finetune import finetune

        chosen = _plan(plan)
        folder = Path(out) if out else self.folder / "isr" / f"finetune-{chosen}"
        return finetune(self.recipe, self.checkpoint, chosen, self._data(data), folder, **options)

    def quantize(
        self, *, levels: Any = (), data: Place | None = None, out: Place | None = None, **options: Any
    ) -> Quantization:
        """Calibrate, train with the quantizers in force, and measure what INT8 costs; as `edgeseg quantize`.

        Args:
            levels: what `search_isr` gave, its plan.json, or ISR plans; none: the recipe's plan.
            options: of `pipeline.quantize.quantize_run`: ptq_only, fresh, device, workers, threads, progress.
        """
        require("torch", extra="train", purpose="quantize a model")
        from edgeseg.pipeline.quantize import quantize_run

        return quantize_run(
            self.recipe,
            self.checkpoint,
            self._data(data),
            path_of(out) if out else self.folder,
            levels=_levels(levels),
            **options,
        )

    def sensitivity(
        self,
        *,
        data: Place | None = None,
        out: Place | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> SensitivityResult:
        """Find the layers that INT8 harms; as `edgeseg sensitivity`.

        Args:
            options: of `int8_study.sensitivity_study.SensitivityOptions`: mode, rank, limit, budget, ...
        """
        require("torch", extra="train", purpose="measure what INT8 harms")
        from edgeseg.int8_study.sensitivity_study import SensitivityOptions, run_sensitivity

        folder = path_of(out) if out else self.folder / "sensitivity"
        wanted = SensitivityOptions(**options)
        return run_sensitivity(
            self.recipe, self.checkpoint, self._data(data), folder, wanted, progress=progress
        )

    def export(
        self,
        out: Place | None = None,
        *,
        levels: Any = (),
        data: Place | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Model:
        """Turn the weights into a bundle; as `edgeseg export`. Quantized weights of the run are taken too.

        Args:
            out: the bundle's folder; None: NAME.edgeseg in the run.
            levels: what `search_isr` gave, its plan.json, or ISR plans; none: the recipe's plan.
            data: golden frames are taken from the validation split below it, else from generated scenes.
            options: of `pipeline.export.export_bundle`: quantized, weights, half, force.
        Returns:
            The bundle as a model, not built yet.
        """
        bundle, _ = self.export_bundle(out, levels=levels, data=data, progress=progress, **options)
        return Model(bundle, progress=progress)

    def export_bundle(
        self,
        out: Place | None = None,
        *,
        levels: Any = (),
        data: Place | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> tuple[Bundle, bool]:
        """As `export`: the bundle, and whether it was made now or kept from the same inputs."""
        require("torch", extra="train", purpose="export a model")
        from edgeseg.pipeline.export import export_bundle

        quantized = options.pop("quantized", ()) or (self.quantized if self.recipe.quant is not None else ())
        place = path_of(out) if out else self.folder / f"{self.recipe.name}.edgeseg"
        return export_bundle(
            self.recipe,
            self.checkpoint,
            place,
            quantized=quantized,
            levels=_levels(levels),
            data_root=maybe_path(data),
            progress=progress,
            **options,
        )

    def _data(self, given: Place | None) -> Path:
        data = given if given is not None else self.data
        if data is None:
            raise RecipeError(
                f"{self.recipe.name}: where its data lie is not known",
                hint="say it: data=FOLDER, in this call or in edgeseg.open_run",
            )
        return path_of(data)


@dataclass(frozen=True, kw_only=True)
class TrainedRun(Run):
    """A run that was just trained, and what that ended with."""

    result: TrainResult


def train(
    recipe: Place | Recipe,
    *,
    data: Place,
    out: Place | None = None,
    init: Place | None = None,
    device: str = "auto",
    workers: int = 2,
    fresh: bool = False,
    progress: Progress | None = None,
    overrides: Sequence[str] = (),
    **sections: Any,
) -> TrainedRun:
    """Train a recipe, or continue the run that lies in its folder; as `edgeseg train`.

    Args:
        recipe: a YAML file, a catalogue name, or a recipe.
        data: folder that the recipe's data paths start from.
        out: folder of the run; None: runs/NAME.
        init: checkpoint to start from.
        device: "cpu", "cuda" or "auto".
        workers: loader processes.
        fresh: set an earlier run in the folder aside and start anew.
        overrides: `key.path=value` each.
        sections: values of the recipe to change, e.g. train={"steps": 200}.
    Raises:
        RecipeError, DataError: every mistake, before any work.
        MissingDependency: torch is not installed; the hint says what to type.
    """
    require("torch", extra="train", purpose="train a model")
    from edgeseg.training.float import train as run_training

    loaded = load_recipe(recipe, overrides, **sections)
    folder = path_of(out) if out else Path("runs") / loaded.name
    root = path_of(data)
    result = run_training(
        loaded,
        root,
        folder,
        init=maybe_path(init),
        device=device,
        workers=workers,
        fresh=fresh,
        progress=progress,
    )
    return TrainedRun(loaded, folder, result.best, root, result=result)


def load_recipe(recipe: Place | Recipe, overrides: Sequence[str] = (), **sections: Any) -> Recipe:
    """Read and check a recipe.

    Args:
        recipe: a YAML file, a catalogue name, or a recipe, which is taken as it is.
        overrides: `key.path=value` each.
        sections: values to change, e.g. train={"steps": 200}, export={"size_hw": [256, 320]}.
    Raises:
        RecipeError: every mistake, with its line.
    """
    from edgeseg.pipeline.recipes import load_recipe as read

    changes = (*overrides, *_overrides(sections))
    if isinstance(recipe, Recipe):
        if not changes:
            return recipe
        return load.recipe_of(recipe.model_dump(mode="json"), f"the recipe {recipe.name}", changes)
    return read(recipe, changes)


def open_run(
    named: Place,
    *,
    checkpoint: Place | None = None,
    overrides: Sequence[str] = (),
    data: Place | None = None,
    **sections: Any,
) -> Run:
    """Find what is meant by a run folder, a recipe file, a catalogue name, or a checkpoint of a training.

    Args:
        checkpoint: other weights than best.safetensors of the run.
        overrides: `key.path=value` each.
        data: folder that the recipe's data paths start from, for the calls that need it.
        sections: values of the recipe to change, e.g. quant={"qat": None}.
    Raises:
        RecipeError: there is no such recipe, or it is wrong.
        DataError: a checkpoint that is damaged, or holds no recipe.
    """
    path, root = Path(named), maybe_path(data)
    weights = maybe_path(checkpoint)
    changes = (*overrides, *_overrides(sections))
    if path.suffix == _WEIGHTS:
        return Run(_recipe_in(path, changes), path.parent, weights or path, root)
    is_run = _is_file(path / "recipe.yaml")
    # A run's recipe was checked when it was trained; its calibration set need not have come along.
    recipe = load.load_recipe(path / "recipe.yaml", changes) if is_run else load_recipe(named, changes)
    folder = path if is_run else Path("runs") / recipe.name
    return Run(recipe, folder, weights or folder / _BEST, root)


def _recipe_in(path: Path, overrides: Sequence[str]) -> Recipe:
    require("torch", extra="train", purpose="read a checkpoint")
    from edgeseg.checkpoints.file import load_checkpoint

    recipe = load_checkpoint(path).meta.get("recipe")
    if not isinstance(recipe, dict):
        raise DataError(
            f"{path} holds no recipe",
            hint=f"name the recipe, and the weights with --checkpoint {quoted(path)}",
        )
    return load.recipe_of(recipe, f"the recipe in {path}", overrides)


def _overrides(sections: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """{"train": {"steps": 200}} -> "train.steps=200"."""
    for key, value in sections.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _overrides(value, f"{name}.")
        else:
            yield f"{name}={json.dumps(plain(value))}"


def _levels(levels: Any) -> Path | list[IsrPlan]:
    """Levels in any of the forms that a call takes."""
    if isinstance(levels, str | PathLike):
        return Path(levels)
    found = getattr(levels, "out", None)
    if found is not None:
        return Path(found) / "plan.json"
    return [_plan(one) for one in levels]


def _plan(plan: IsrPlan | str) -> IsrPlan:
    from edgeseg.isr.plans import parse_plan

    return parse_plan(plan) if isinstance(plan, str) else plan


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # a name that no file can have
