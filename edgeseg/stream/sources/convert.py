"""From a decoded frame to a picture as people see it: RGB, its colours by its own tags, upright, with the
shape of its pixels.

FFmpeg's own filters convert, so that a picture is the one that `ffmpeg -i CLIP -pix_fmt rgb24` gives, and a
refusal is an error and not a picture of the last frame. What a picture's file says and is not done is told in
words, once:

* HDR (PQ and HLG) is not tone-mapped: the values are those that FFmpeg gives, greyer than on an HDR screen.
* Interlaced pictures are shown whole, both fields at once, as every player does by default: moving edges may
  comb.
* Colour tags that FFmpeg does not know count as not set (BT.601), as its decoder takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edgeseg.errors import require
from edgeseg.images import opencv
from edgeseg.specs import ImageU8

Note = Callable[[str], object]

_UNSPECIFIED = 2
_HDR = {16: "PQ", 18: "HLG"}
_DOMINANT = (
    32  # a display matrix counts as a turn by right angles where its other entries are smaller by this
)


class Converted(NamedTuple):
    """A picture (H, W, 3) uint8, the receiver's own, and the width of its pixels over their height."""

    image_rgb: ImageU8
    pixel_aspect: float


class Refused(Exception):
    """FFmpeg cannot convert this frame: there is no picture of it."""


class Converter:
    """Converts the frames of one stream; a new size, format or colour tag on the way is no matter.

    Args:
        note: told in words what of the picture is not as its file asks; each once.
    """

    def __init__(self, note: Note = lambda text: None) -> None:
        self._note, self._noted = note, set[str]()
        self._graph: Any = None
        self._key: tuple[Any, ...] = ()

    def convert(self, frame: Any, context: Any, sample_aspect: float = 1.0) -> Converted:
        """The picture of a frame.

        Args:
            frame: of PyAV.
            context: the codec's, for tags that frames of older PyAVs do not have.
            sample_aspect: width over height of the pixels as they are stored.
        Raises:
            Refused: with FFmpeg's reason, the format and the tags.
        """
        image_rgb = self._rgb(frame)
        transfer = int(getattr(frame, "color_trc", None) or context.color_trc or _UNSPECIFIED)
        if transfer in _HDR:
            self._tell(f"HDR ({_HDR[transfer]}) is shown without tone mapping: paler than on an HDR screen")
        if frame.interlaced_frame:
            self._tell(
                "it is coded interlaced: both fields are shown as one picture, and moving edges may comb"
            )
        return self._upright(image_rgb, frame, sample_aspect)

    def _tell(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def _rgb(self, frame: Any) -> ImageU8:
        tags = (int(frame.colorspace), int(frame.color_range))
        try:
            picture = self._filtered(frame, *tags)
        except failures() as error:
            if tags[0] == _UNSPECIFIED:
                raise Refused(_why(frame, error)) from None
            try:
                picture = self._filtered(frame, _UNSPECIFIED, tags[1])
            except failures():
                raise Refused(_why(frame, error)) from None
            self._tell(f"colour matrix {tags[0]} is not known here: BT.601 is taken")
        image_rgb: ImageU8 = picture.to_ndarray()
        # What was RGB before may be the decoder's own buffer, which it still refers to.
        return image_rgb.copy() if frame.format.name == "rgb24" else image_rgb

    def _filtered(self, frame: Any, matrix: int, colour_range: int) -> Any:
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, matrix, colour_range)
        if key != self._key:
            self._graph, self._key = _graph(frame, matrix, colour_range), key
        try:
            self._graph.push(frame)
            return self._graph.pull()
        except BaseException:
            self._key = ()  # a graph that failed once is of no further use
            raise

    def _upright(self, image_rgb: ImageU8, frame: Any, aspect: float) -> Converted:
        """Turned and mirrored as the display matrix says: x' = a x + c y, y' = b x + d y."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return Converted(image_rgb, aspect)
        a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(data, np.int32)[:9])
        if max(abs(b), abs(c)) * _DOMINANT < min(abs(a), abs(d)):
            return Converted(_flipped(image_rgb, a < 0, d < 0), aspect)
        if max(abs(a), abs(d)) * _DOMINANT < min(abs(b), abs(c)):
            return Converted(_flipped(opencv().transpose(image_rgb), c < 0, b < 0), 1 / aspect)
        self._tell("it asks to be turned by an angle that is not a right one: it is shown as stored")
        return Converted(image_rgb, aspect)


def pyav() -> Any:
    """The av module. Raises MissingDependency where PyAV is not installed."""
    return require("av", extra="video", purpose="read video")


def failures() -> tuple[type[Exception], ...]:
    """What FFmpeg's failures are raised as."""
    return (pyav().FFmpegError, OSError, ValueError)


def _graph(frame: Any, matrix: int, colour_range: int) -> Any:
    """buffer -> (colour tag replaced) -> scale -> rgb24, for frames like this one."""
    graph = pyav().filter.Graph()
    last = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1000",
        colorspace=str(int(frame.colorspace)),
        range=str(colour_range),
    )
    filters = [("scale", "flags=bicubic"), ("format", "pix_fmts=rgb24"), ("buffersink", None)]
    if matrix != frame.colorspace:
        filters.insert(
            0, ("setparams", f"colorspace={matrix}:color_primaries={_UNSPECIFIED}:color_trc={_UNSPECIFIED}")
        )
    for name, arguments in filters:
        step = graph.add(name, arguments)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def _flipped(image_rgb: ImageU8, left_right: bool, up_down: bool) -> ImageU8:
    if not (left_right or up_down):
        return image_rgb
    flipped: ImageU8 = opencv().flip(image_rgb, -1 if left_right and up_down else 1 if left_right else 0)
    return flipped


def _why(frame: Any, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{frame.format.name} with colour matrix {int(frame.colorspace)} cannot be converted: {reason}"
