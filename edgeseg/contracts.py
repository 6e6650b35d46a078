"""The extension points on one page: what is swapped is a Protocol or a base class, what flows is in `specs`.

A new implementation costs one file or class and a row in a table of import strings (`registry`), ours or that
of an entry-point group. `edgeseg.testing` has fakes, and for each point a function that checks this contract,
which `tests/conformance` calls for every row of ours:

    point                        group             check               table
    EngineBackend, Session       edgeseg.engines   check_backend       engines.table
    FrameSource, LiveSource      edgeseg.sources   check_source        stream.sources.table
    FrameSink                    edgeseg.sinks     check_sink          stream.sinks.table
    encoders, decoders           edgeseg.models    models.check_model  models.parts, recipe.architectures
    SegDataset, by data format   edgeseg.datasets  check_dataset       recipe.schema, data.formats
    Meter                        edgeseg.meters    check_meter         devices.power
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgeseg.specs import Form, Frame, ImageU8, LabelSpace, MaskU8, Precision, Program

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

    from edgeseg.results import Result
    from edgeseg.stream.watch.events import Event


@runtime_checkable
class Session(Protocol):
    """An open engine. Not thread-safe: one thread calls `infer`. Close it, or use it as a context manager."""

    program: Program

    def infer(self, image_rgb: ImageU8) -> MaskU8:
        """Segment an image that already has the program's size.

        Args:
            image_rgb: (H, W, 3) uint8 with (H, W) == program.image.size_hw.
        Returns:
            (H / mask_stride, W / mask_stride) uint8 class indices; a fresh array that the caller owns.
        Raises:
            ValueError: wrong shape or dtype.
        """
        ...

    def segment(self, image_rgb: ImageU8) -> MaskU8:
        """Segment an image of any size: resize, infer, resize the mask back (nearest).

        Args:
            image_rgb: (H, W, 3) uint8.
        Returns:
            (H, W) uint8 class indices.
        """
        ...

    def close(self) -> None:
        """Release the engine. May be called more than once."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tell(Protocol):
    """How a source says what happens: kind, reason and figures of an event."""

    def __call__(self, kind: str, reason: str, **details: Any) -> None: ...


def silent(kind: str, reason: str, **details: Any) -> None:
    """Tell nobody."""


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Option:
    """What a runtime can be told. Its name has the unit of its values.

    Attributes:
        kind: of its values: bool, int or str.
        text: what it does, and what happens without it; one line.
        choices: all values that there are; empty: any of its kind.
        least, most: bounds of a number; `most` None: there is none.
    """

    kind: type[bool] | type[int] | type[str]
    text: str
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None

    def allows(self, value: object) -> bool:
        """Whether it may be told this. 1 is no truth value, and True no number."""
        if type(value) is not self.kind or (self.choices and value not in self.choices):
            return False
        if self.kind is not int or not isinstance(value, int):
            return True
        return self.least <= value and (self.most is None or value <= self.most)

    @property
    def values(self) -> str:
        """The values that it takes, for people: "true or false", "0 to 5", "cpu, cuda", "any text"."""
        if self.kind is bool:
            return "true or false"
        if self.kind is int:
            return f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"
        return ", ".join(self.choices) or "any text"


class EngineBackend(Protocol):
    """One inference runtime: makes engine files from a program, and opens them.

    Its class is called with those of these keyword arguments that its constructor names: `machine`, the
    `devices.machine.Machine` that its engines run on (None: this one), and `progress`, a `Progress` to tell
    the phases of its work. What it answers for a machine depends on that value alone and on what is
    installed; `detect` is for None.
    """

    name: str

    @property
    def options(self) -> Mapping[str, Option]:
        """All that `variants`, `compile` and `load` read of their options, by name; `threads` among them on
        processors.
        """
        ...

    def form_for(self, precision: Precision) -> Form | None:
        """Which form of a program of this precision it runs fastest here (`Program.form`); where a bundle
        lacks it, it gets `specs.canonical_form`. None: programs of this precision bring it nothing, and are
        not tried."""
        ...

    @property
    def exports(self) -> Mapping[Precision, Form]:
        """What an export writes for it where a recipe names it as a target: precision -> form, on whatever
        machine exports.

        Every float and INT8 program also comes in its canonical form, and an INT8 one in those for
        processors. A precision that is missing is not written for its sake.
        """
        ...

    on_accelerator: bool
    """True where its engines run on a GPU or another accelerator, which they are then bound to."""

    def version(self) -> str:
        """Version of the runtime. Raises MissingDependency where it is not installed."""
        ...

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """Options that are worth measuring against each other on this device.

        At least one where the runtime can run here, `{}` where there is no choice; none where it cannot.

        Args:
            wanted: what the user asks for, of `options`. Every variant has it that it means anything to; an
                option that names where to compute chooses among the variants, or adds one.
        Raises:
            MissingDependency: as `version`, where a device is there that it runs on.
            Unsupported: it cannot do here what is wanted.
        """
        ...

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """Build into `out_dir`, for this device or what `options` name; returns the files that `load` needs.

        Raises:
            BuildError: the runtime refuses the program.
            Unsupported: it cannot build here.
        """
        ...

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> Session:
        """Open what `compile` built.

        Raises:
            BundleError: the runtime refuses the files.
            Unsupported: it cannot run here.
        """
        ...


@runtime_checkable
class PortableBackend(EngineBackend, Protocol):
    """A runtime whose engines move: each runs in every machine that has its accelerator, whatever else is in
    it.
    """

    def accelerators(self) -> Sequence[str]:
        """Those of this machine that it has engines for, whether or not it is installed here."""
        ...

    def accelerator(self, options: Mapping[str, Any]) -> str:
        """The one that an engine with these options is for, in this machine or another; "" where it can be
        for none.
        """
        ...


class FrameSource(ABC):
    """Where frames come from. Construct cheap, open late, close always. One thread opens it, reads it and
    closes it.

    Frames carry the source's own time stamps, whatever they are: the capture makes them one line of time (see
    stream.run.timeline). Derive from it: what it defines here is what a source says that has no more to say.
    """

    source_id: str
    """What reports and results call it: never holds credentials."""
    is_live: bool
    """True where frames that are not read are lost (a camera); False where nothing may be dropped (a file).
    Valid once open: a source that cannot know it before says what is likely."""
    fps: float
    """Nominal frames per second; valid once open. 0 where the source has no rate (a folder of images)."""
    frame_count: int | None
    """Number of frames where it is known in advance; valid once open."""
    tell: Tell
    """To be called with kind, reason and figures of what happens; the runner sets it before `open`."""

    @abstractmethod
    def open(self) -> None:
        """Raises StreamError where the source is missing, unreadable or holds no frames."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Frames in order, until the end. Raises StreamError where the source breaks off."""

    @property
    def damaged(self) -> int:
        """Pictures of this connection that were left out, or marked, since a loss had smeared them."""
        return 0

    @property
    def undecodable(self) -> int:
        """Pictures of this connection that no decoder could make."""
        return 0

    @property
    def stamps_may_jump(self) -> bool:
        """Whether its container lets stamps jump (MPEG-TS), so that a long gap is none; valid once open."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of what `open` took; may be called without it."""


class LiveSource(FrameSource):
    """A source that may be connected again when it breaks off; `is_live` is True.

    Its `open` and each step of its `frames` end within a few seconds, with a frame or with StreamError. Where
    a driver hangs all the same, the runner leaves the source and its thread behind, and goes on with a fresh
    one. AccessDenied is not tried again.
    """

    @abstractmethod
    def fresh(self) -> LiveSource:
        """An unopened source of the same address and options, which shares nothing with this one."""


class FrameSink(ABC):
    """Where results go. Derive from it: what it defines here is what a sink does that has no need of its own.

    One thread makes all calls, `write` in the order of each source's frames. After `close` a sink may be
    opened again, with another frame size or because it failed: it goes on without touching what it wrote
    before. It may keep a result after `write`.
    """

    name: str
    """What messages call it, without credentials; the name of its class where it has none of its own."""
    takes_all_sources: bool = False
    """Whether it takes frames of several sources; else it shows those of one."""
    pixel_aspect: float = 1.0
    """Width of a pixel of the frames over its height; set before `open`."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__dict__.get("name", cls.__name__)

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:  # noqa: B027  may stay empty
        """Raise StreamError where the target cannot be written."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take one result; its mask has the size of its frame."""

    def event(self, event: Event) -> None:  # noqa: B027
        """Take what happens during a run, see stream.watch.events."""

    def replaces(self, path: Path) -> bool:
        """Return whether it might write over, or delete, a file of that name."""
        return False

    def close(self) -> None:  # noqa: B027
        """Finalise; what was written up to here stays readable."""


class SegDataset(Protocol):
    """Images with class maps. Indexable and stateless, so that workers may share it."""

    labels: LabelSpace

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Stable name of a sample, for reports: the image path below the data root, without suffix."""
        ...

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        """Image (H, W, 3) uint8 RGB and class map (H, W) uint8. Raises DataError naming the file."""
        ...


class Meter(Protocol):
    """Tells the power that a part of this machine draws. Construct cheap; one thread at a time reads it."""

    def read(self) -> Mapping[str, float]:
        """Return watts by rail, now or as the mean since the last reading; empty where nothing can be read.

        A rail is called as the board's maker calls it. Never raises.
        """
        ...


class Progress(Protocol):
    """How long work reports itself. The CLI draws bars; tests record; libraries default to silence."""

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        """`figures` are shown beside the bar (loss=0.41, images_per_s=3.2)."""
        ...

    def finish(self, task: str) -> None: ...

    def message(self, text: str) -> None: ...


class NoProgress:
    """The silent Progress."""

    def start(self, task: str, total: int | None) -> None: ...

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None: ...

    def finish(self, task: str) -> None: ...

    def message(self, text: str) -> None: ...
