"""A bundle on this device, as an object that is called with pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import monotonic, perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from edgeseg.api.places import Place, maybe_path, path_of
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.contracts import Progress, Session
from edgeseg.devices.machine import detect
from edgeseg.devices.probe import place
from edgeseg.engines.open import find_engine, open_session
from edgeseg.errors import BundleError, DataError, Unsupported
from edgeseg.images import read_image, resize_image, resize_mask
from edgeseg.results import Result, class_shares, value_shares
from edgeseg.specs import Frame, ImageU8, Precision
from edgeseg.stream.uris import named, redact

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgeseg.engines.choose.choice import LevelBuild
    from edgeseg.pipeline.evaluate import Evaluation
    from edgeseg.pipeline.parity import Ladder
    from edgeseg.pipeline.run import StreamsReport
    from edgeseg.stream.run.outputs import AnySink


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine that was considered for a level.

    Attributes:
        kind: precision of the program, and of the arithmetic where that is another, e.g. "float bf16".
        median_ms: time of a frame in the engine, as measured by the build; None where it was not timed.
        verdict: "default" is what runs; "passed" could; "refused" and "not built" say why in `reason`.
    """

    level: int
    runtime: str
    kind: str
    verdict: str
    median_ms: float | None
    speedup: float | None
    reason: str


class EngineTable(tuple[EngineRow, ...]):
    """The choices of a build on this machine; prints as a table."""

    def __repr__(self) -> str:
        head = f"{'level':>5}  {'runtime':<16}{'kind':<12}{'verdict':<10}{'ms':>8}  {'speed-up':>8}  reason"
        lines = [head]
        for row in self:
            ms = "-" if row.median_ms is None else f"{row.median_ms:.2f}"
            faster = "-" if row.speedup is None else f"{row.speedup:.2f}"
            what = f"{row.level:>5}  {row.runtime:<16}{row.kind:<12}{row.verdict:<10}"
            lines.append(f"{what}{ms:>8}  {faster:>8}  {row.reason}".rstrip())
        return "\n".join(lines)


class Model:
    """A bundle on this device. Made by `edgeseg.open`; a context manager. One thread calls it.

    Args:
        bundle: folder of the bundle.
        level: ISR level, 0 = most exact.
        runtime, precision: of the engine; None: whatever a build finds fastest.
        threads: of the engine; None: those that it was measured with.
        progress: shows what a build does.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        level: int = 0,
        runtime: str | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._bundle, self._level, self._threads = bundle, level, threads
        self._runtime, self._precision, self._progress = runtime, precision, progress
        self._session: Session | None = None
        self._calls = 0

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self._bundle.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices in a mask."""
        return self._bundle.any_program(self._level).labels.names

    @property
    def engines(self) -> EngineTable:
        """The engines that a build considered for this machine; empty before the first."""
        here = place(detect())
        return EngineTable(
            EngineRow(
                choice.level,
                one.runtime,
                one.kind,
                one.verdict,
                one.measurements.get("median_ms"),
                one.measurements.get("speedup"),
                one.reason,
            )
            for choice in self._bundle.manifest.choices
            if choice.machine in ("", here)
            for one in choice.candidates
        )

    @property
    def session(self) -> Session:
        """The open engine of this model's level; it is built where this device has none yet.

        Raises:
            BundleError, BuildError, GateFailed: no engine can be had; the message says why.
        """
        if self._session is None:
            self._ensure_engine(self._level)
            self._session = open_session(
                self._bundle, self._level, self._runtime, self._threads, self._precision
            )
        return self._session

    @overload
    def __call__(self, image: Place | ImageU8) -> Result: ...
    @overload
    def __call__(self, image: list[Place | ImageU8]) -> list[Result]: ...
    def __call__(self, image: Place | ImageU8 | list[Place | ImageU8]) -> Result | list[Result]:
        """Segment a picture, or a list of them.

        Args:
            image: path of a file, or (H, W, 3) uint8 RGB.
        Returns:
            The result, its mask at the picture's size; a list for a list.
        Raises:
            DataError: a file that is no picture, or an array of another kind.
        """
        if isinstance(image, list):
            return [self(one) for one in image]
        start_s = monotonic()
        name = "" if isinstance(image, np.ndarray) else Path(image).name
        image_rgb = _checked(image) if isinstance(image, np.ndarray) else read_image(_local(image))
        session, frame_s = self.session, perf_counter()
        program = session.program
        resized = resize_image(image_rgb, program.image.size_hw)
        engine_s = perf_counter()
        small = session.infer(np.ascontiguousarray(resized))
        infer_s = perf_counter() - engine_s
        mask = resize_mask(small, (image_rgb.shape[0], image_rgb.shape[1]))
        shares = class_shares(value_shares(mask), program.labels)
        frame = Frame(image_rgb, self._calls, 0.0, start_s, name or "array", name)
        self._calls += 1
        return Result(
            frame,
            mask,
            program.labels,
            shares,
            infer_ms=1e3 * infer_s,
            latency_ms=1e3 * (perf_counter() - frame_s),
            age_ms=1e3 * (monotonic() - start_s),
            level=self._level,
        )

    def stream(self, source: Place, **settings: Any) -> Iterator[Result]:
        """Segment a stream, result by result, in order.

        A file waits for the caller; of a camera the newest frames are kept. Closing the iterator, or leaving
        its loop, ends the stream.

        Args:
            source: as `edgeseg run --source` takes it: a clip, a folder, rtsp://, /dev/video0, ...
            settings: as `run` takes them, e.g. deadline_ms=40, which moves between the levels.
        Raises:
            StreamError, RecipeError: as `run`.
        """
        from edgeseg.pipeline.run import stream_results

        wanted = self._settings([source], (), settings)
        with stream_results(wanted) as results:
            yield from results

    def run(
        self,
        sources: Place | Sequence[Place],
        sinks: AnySink | Place | Sequence[AnySink | Place] = (),
        *,
        sheet: Place | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> StreamsReport:
        """Segment streams into sinks until they end: all that `edgeseg run` does.

        Args:
            sources: "URI" or "NAME=URI" each.
            sinks: URIs as `edgeseg run --sink` takes them, sinks of your own, or functions that are called
                with each result.
            sheet: where to write a contact sheet, as PNG.
            settings: keys of streams.yaml: deadline_ms, target_fps, limit, opacity, report, web, ...
        Raises:
            RecipeError: an unknown setting, or a wrong one.
            StreamError: no source had a frame, all failed, or a sink could not be written.
        """
        from edgeseg.pipeline.run import run_streams
        from edgeseg.stream.run.options import Options

        given = _listed(sources)
        outputs = _listed(sinks)
        uris = [str(one) for one in outputs if isinstance(one, str | PathLike)]
        others = [one for one in outputs if not isinstance(one, str | PathLike)]
        options = Options(progress=progress) if progress else Options()
        return run_streams(
            self._settings(given, uris, settings),
            others,
            sheet=maybe_path(sheet),
            options=options,
        )

    def build(self, *, data: Place | None = None, **options: Any) -> list[LevelBuild]:
        """Find this device's fastest exact engine of every level, and pack it; as `edgeseg build`.

        Args:
            data: measure every engine's mIoU on the validation split below it.
            options: as `pipeline.build.build_bundle` takes them: runtimes, threads, limit, memory, force.
        """
        from edgeseg.pipeline.build import build_bundle

        self.close()
        wanted = {"threads": self._threads, "progress": self._progress, **options}
        return build_bundle(self._bundle, data_root=maybe_path(data), **wanted)

    def evaluate(self, data: Place, **options: Any) -> Evaluation:
        """Measure mIoU of the engine on the recipe's validation split; as `edgeseg eval`.

        Args:
            data: folder that the recipe's data paths start from.
            options: as `pipeline.evaluate.evaluate_bundle` takes them: checkpoint, limit, gated.
        """
        from edgeseg.pipeline.evaluate import evaluate_bundle

        self._ensure_engine(self._level)
        wanted = {
            "level": self._level,
            "precision": self._precision,
            "threads": self._threads,
            "progress": self._progress,
            **options,
        }
        return evaluate_bundle(self._bundle, self._bundle.recipe(), path_of(data), **wanted)

    def parity(self, *, data: Place | None = None, checkpoint: Place | None = None) -> list[Ladder]:
        """Compare model, graph and engine step by step; as `edgeseg parity`."""
        from edgeseg.pipeline.parity import Inputs, climb

        inputs = Inputs(checkpoint=maybe_path(checkpoint), data_root=maybe_path(data), threads=self._threads)
        return list(climb(self._bundle, inputs))

    def close(self) -> None:
        """Release the engine; the next call opens it again."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        program = self._bundle.any_program(self._level)
        height, width = program.image.size_hw
        count = len(self._bundle.manifest.levels)
        return f"<Model {self.path.name}: {program.arch}, {width}x{height}, level {self._level} of {count}>"

    def _settings(self, sources: Sequence[Place], sinks: Sequence[str], settings: Mapping[str, Any]) -> Any:
        """The settings of a run, as streams.yaml would hold them; engines that it needs are built."""
        from edgeseg.stream.config import read_streams

        pairs = [named(str(source)) for source in sources]
        document = {
            "bundle": str(self.path),
            "level": self._level,
            "precision": self._precision,
            "threads": self._threads,
            "sources": [
                {"uri": uri, **({} if name == redact(uri) else {"name": name})} for name, uri in pairs
            ],
            "sinks": list(sinks),
            **settings,
        }
        streams = read_streams(document)
        governed = streams.deadline_ms or streams.target_fps
        for level in range(self._level, len(self._bundle.manifest.levels)) if governed else [self._level]:
            self._ensure_engine(level)
        return streams

    def _ensure_engine(self, level: int) -> None:
        """Build the engine of a level where this device has none."""
        from edgeseg.engines.choose.choice import build_level

        try:
            find_engine(self._bundle, level, self._runtime, self._precision)
        except (BundleError, Unsupported):  # none yet, of another device, or of a runtime that is gone
            build_level(
                self._bundle,
                level,
                runtimes=(self._runtime,) if self._runtime else (),
                threads=self._threads,
                progress=self._progress,
            )


def open_model(
    path: Place,
    *,
    level: int = 0,
    runtime: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Open a bundle as a model; `edgeseg.open`. An engine is built on first use where this device has none.

    Args:
        path: folder of the bundle.
        level: ISR level, 0 = most exact.
        runtime, precision: of the engine; None: whatever a build finds fastest.
        threads: of the engine; None: those that it was measured with.
        progress: shows what a build does.
    Raises:
        BundleError: no bundle, or a damaged one.
    """
    bundle = open_bundle(path_of(path))
    bundle.level(level)
    return Model(
        bundle, level=level, runtime=runtime, precision=precision, threads=threads, progress=progress
    )


def _checked(image: np.ndarray[Any, Any]) -> ImageU8:
    """The array, where it is a picture. Raises DataError."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    cures = {
        2: "repeat a grey picture over three channels: np.repeat(image[..., None], 3, axis=2)",
        4: "hand over one picture of a batch at a time, or a list of them",
    }
    cure = cures.get(image.ndim, "")
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        cure = "put the channels last: image.transpose(1, 2, 0)"
    elif image.ndim == 3 and image.shape[2] == 4:
        cure = "leave the alpha channel out: image[:, :, :3]"
    elif image.dtype != np.uint8 and image.ndim == 3:
        cure = "scale it to 0..255 and convert it: image.astype(np.uint8)"
    raise DataError(
        f"an array of shape {image.shape} and type {image.dtype} is no picture: (H, W, 3) uint8 RGB is",
        hint=cure or "read it with OpenCV and turn BGR into RGB: image[:, :, ::-1]",
    )


def _local(path: Place) -> Path:
    if "://" in str(path):
        raise DataError(
            f"{redact(str(path))}: an address and not a file", hint="take it as a stream: model.stream(URI)"
        )
    return path_of(path)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
