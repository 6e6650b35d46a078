"""Fakes of the extension points, for tests and as a pattern for one's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from edgeseg.contracts import (
    NO_OPTIONS,
    EngineBackend,
    FrameSink,
    FrameSource,
    LiveSource,
    Meter,
    NoProgress,
    Option,
    Session,
)
from edgeseg.engines.options import THREADS
from edgeseg.images import resize_image, resize_mask
from edgeseg.results import Result
from edgeseg.specs import Form, Frame, ImageU8, LabelSpace, MaskU8, Precision, Program


class FakeSession:
    """A Session that answers with a function of the image; remembers how often it was asked, and whether it
    was closed.

    Args:
        answer: image (H, W, 3) at the program's size -> class map at its mask size; default: class 0
            everywhere.
    """

    def __init__(self, program: Program, answer: Callable[[ImageU8], MaskU8] | None = None) -> None:
        self.program = program
        self.calls = 0
        self.closed = False
        self._answer = answer or (lambda image: np.zeros(program.mask_shape, np.uint8))

    def infer(self, image_rgb: ImageU8) -> MaskU8:
        if self.closed:
            raise ValueError("the session is closed")
        if image_rgb.shape != (*self.program.image.size_hw, 3) or image_rgb.dtype != np.uint8:
            raise ValueError(f"the image is {image_rgb.dtype} {image_rgb.shape}")
        self.calls += 1
        return self._answer(image_rgb)

    def segment(self, image_rgb: ImageU8) -> MaskU8:
        mask = self.infer(resize_image(image_rgb, self.program.image.size_hw))
        return resize_mask(mask, (image_rgb.shape[0], image_rgb.shape[1]))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FakeBackend:
    """An EngineBackend whose engines are FakeSessions; counts what it compiled.

    Args:
        answer: as of FakeSession, or one for each variant's value of `precision_hint`.
        options: that it takes; it passes them on to every variant.
        error: raised by `compile`.
    """

    on_accelerator = False

    def __init__(
        self,
        name: str,
        answer: Callable[[ImageU8], MaskU8] | Mapping[str, Callable[[ImageU8], MaskU8]] | None = None,
        variants: Sequence[Mapping[str, Any]] = ({},),
        form: Form = Form.CPU,
        int8_form: Form = Form.QDQ,
        half_form: Form | None = None,
        options: Mapping[str, Option] = MappingProxyType({"threads": THREADS}),
        error: Exception | None = None,
    ) -> None:
        self.options = options
        self.name = name
        self._forms: dict[Precision, Form | None] = {"float": form, "fp16": half_form, "int8": int8_form}
        self.exports = {precision: wanted for precision, wanted in self._forms.items() if wanted is not None}
        self.compiled: list[Mapping[str, Any]] = []
        self._answer, self._variants, self._error = answer, variants, error

    def form_for(self, precision: Precision) -> Form | None:
        return self._forms[precision]

    def version(self) -> str:
        return "1.0"

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        return [{**variant, **wanted} for variant in self._variants]

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        self.compiled.append({**options, "precision": program.precision, "form": program.form})
        if self._error is not None:
            raise self._error
        (out_dir / "engine.fake").write_text(f"{self.name} {options}")
        return [out_dir / "engine.fake"]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> FakeSession:
        if isinstance(self._answer, Mapping):
            return FakeSession(program, self._answer[options.get("precision_hint", program.precision)])
        return FakeSession(program, self._answer)


class FakeSource(FrameSource):
    """A FrameSource over images in memory; raises `error` after the last, where one is given."""

    is_live = False

    def __init__(
        self,
        images: Iterable[ImageU8],
        fps: float = 25.0,
        error: BaseException | None = None,
        name: str = "fake",
    ) -> None:
        self.source_id = name
        self.fps = fps
        self.frame_count: int | None = None
        self.opened = self.closed = 0
        self._images, self._error = images, error

    def open(self) -> None:
        self.opened += 1

    def frames(self) -> Iterator[Frame]:
        for index, image_rgb in enumerate(self._images):
            yield Frame(
                image_rgb, index, index / self.fps if self.fps else 0.0, time.monotonic(), self.source_id
            )
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1


class FakeLiveSource(LiveSource):
    """A LiveSource that plays one script a connection, over all its fresh twins; the last one is played again
    and again.

    Args:
        connections: for each, what happens in turn: an int is a frame, an exception is raised, a function is
            called (to hang, for example).
        size_hw: of its pictures.
    Attributes:
        opened: connections so far.
        step_s: seconds between two frames.
        sizes: pictures of another size, by the number of the connection from 1.
    """

    is_live = True

    def __init__(
        self, name: str, connections: Sequence[Sequence[Any]], size_hw: tuple[int, int] = (12, 16)
    ) -> None:
        self.source_id = name
        self.fps = 0.0
        self.frame_count: int | None = None
        self.opened = self.closed = 0
        self.step_s = 0.002
        self.sizes: dict[int, tuple[int, int]] = {}
        self._connections, self._size_hw, self._first = connections, size_hw, self

    def open_now(self) -> int:
        """Connections that are not closed yet."""
        return self.opened - self.closed

    def fresh(self) -> FakeLiveSource:
        twin = FakeLiveSource(self.source_id, self._connections, self._size_hw)
        twin._first = self._first
        return twin

    def open(self) -> None:
        self._first.opened += 1
        self._number = self._first.opened

    def frames(self) -> Iterator[Frame]:
        size_hw = self._first.sizes.get(self._number, self._size_hw)
        start_s = time.monotonic()
        for index, step in enumerate(self._connections[min(self._number, len(self._connections)) - 1]):
            if isinstance(step, BaseException):
                raise step
            if callable(step):
                step()
                continue
            time.sleep(self._first.step_s)
            image_rgb = np.full((*size_hw, 3), index % 256, np.uint8)
            now_s = time.monotonic()
            yield Frame(image_rgb, index, now_s - start_s, now_s, self.source_id)

    def close(self) -> None:
        self._first.closed += 1


class FakeSink(FrameSink):
    """A sink that keeps what it gets; `before` gets the index of each frame first."""

    def __init__(self, before: Callable[[int], object] = lambda index: None) -> None:
        self.size_hw: tuple[int, int] | None = None
        self.fps = 0.0
        self.frames: list[Frame] = []
        self.masks: list[MaskU8] = []
        self.records: list[Mapping[str, Any]] = []
        self.opened = self.closed = 0
        self._before = before

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        self.opened += 1
        self.size_hw, self.fps = size_hw, fps

    def write(self, result: Result) -> None:
        self._before(result.index)
        self.frames.append(result.frame)
        self.masks.append(result.mask)
        self.records.append(result.to_json())

    def close(self) -> None:
        self.closed += 1


class FakeMeter:
    """A power meter that gives readings one after another, and the last one for ever."""

    def __init__(self, *readings: Mapping[str, float]) -> None:
        self._readings = list(readings) or [{}]

    def read(self) -> Mapping[str, float]:
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]


class FakeProgress(NoProgress):
    """A Progress that keeps what it is told: `started` tasks, `steps` by task, and `messages`."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.steps: dict[str, int] = {}
        self.messages: list[str] = []

    def start(self, task: str, total: int | None) -> None:
        self.started.append(task)

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.steps[task] = self.steps.get(task, 0) + steps

    def message(self, text: str) -> None:
        self.messages.append(text)


_conforms: tuple[type[Session], type[EngineBackend], type[Meter]] = (FakeSession, FakeBackend, FakeMeter)
