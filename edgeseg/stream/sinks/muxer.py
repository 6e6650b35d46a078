"""Video out by FFmpeg, through PyAV: pictures in, packets with exact times out, into a container or to
whoever sends them.

The encoder is given frame numbers and the container the true times, so that neither a constant rate such as
30000/1001 nor a variable one is rounded to what an encoder can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edgeseg.errors import StreamError, Unsupported, require
from edgeseg.images import opencv
from edgeseg.specs import ImageU8
from edgeseg.stream.uris import scrub

_TICKS_PER_S = 90_000
_LONGEST_GAP_S = 3600
_MOST_ASPECT = 255  # what MPEG-4 can hold
_INDEX_BYTES = 16  # of an mp4, for a frame at most


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of FFmpeg, and how it is set up. Neither reorders frames: what goes in comes out at once."""

    encoder: str
    options: Mapping[str, str]


CODECS: Mapping[str, Codec] = {
    "h264": Codec("libx264", {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}),
    "mpeg4": Codec("mpeg4", {"qmin": "4", "qmax": "4"}),
}
"""By the name that users give: H.264, which plays everywhere, and MPEG-4 part 2, which the oldest players
take.
"""


def pyav() -> Any:
    """The av module. Raises MissingDependency where PyAV is not installed."""
    return require("av", extra="video", purpose="write video")


def exact_rate(fps: float) -> Fraction:
    """The ratio that a float was made from: 29.97002997 -> 30000/1001, 29.97 -> 2997/100."""
    return Fraction(fps).limit_denominator(100_000)


class VideoClock:
    """Presentation times in ticks of a clock in which the nominal frame duration is a whole number; strictly
    increasing, from 0.

    Gaps are kept. A time that does not increase, or is more than an hour ahead, is that of a source that
    began anew: it is joined on, one nominal step after the last frame.

    Attributes:
        time_base: seconds a tick, at most 1/90000 s.
        step: ticks of a nominal frame.
    """

    def __init__(self, rate: Fraction) -> None:
        factor = math.ceil(_TICKS_PER_S / rate.numerator)
        self.time_base = Fraction(1, rate.numerator * factor)
        self.step = rate.denominator * factor
        self._last: int | None = None
        self._offset = 0

    def ticks(self, pts_s: float) -> int:
        """The time of the next frame, from its presentation time in the source."""
        at = round(pts_s * self.time_base.denominator) + self._offset
        if self._last is None:
            wanted = 0
        elif not 0 < at - self._last <= _LONGEST_GAP_S * self.time_base.denominator:
            wanted = self._last + self.step
        else:
            wanted = at
        self._offset += wanted - at
        self._last = wanted
        return wanted


class Encoder:
    """Compresses pictures of one size, one packet a picture; a keyframe every second or so.

    Attributes:
        clock: of the packets.
    """

    def __init__(
        self, context: Any, codec: Codec, size_hw: tuple[int, int], rate: Fraction, pixel_aspect: float = 1.0
    ) -> None:
        height, width = size_hw
        # The encoders take even sides only: odd ones get one more row or column, a copy of the last.
        self._pad_hw = (height % 2, width % 2)
        context.width, context.height, context.pix_fmt = (
            width + self._pad_hw[1],
            height + self._pad_hw[0],
            "yuv420p",
        )
        if pixel_aspect != 1:
            context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(_MOST_ASPECT)
        context.options = dict(codec.options)
        context.framerate, context.time_base = rate, 1 / rate
        context.gop_size, context.max_b_frames = max(1, round(rate)), 0
        self.clock = VideoClock(rate)
        self._context, self._count = context, 0
        self._times: dict[int, int] = {}

    def encode(self, image_rgb: ImageU8, pts_s: float) -> list[Any]:
        """The packets that a picture (H, W, 3) adds."""
        cv2 = opencv()
        if any(self._pad_hw):
            image_rgb = cv2.copyMakeBorder(
                image_rgb, 0, self._pad_hw[0], 0, self._pad_hw[1], cv2.BORDER_REPLICATE
            )
        # OpenCV's conversion takes a third of the time of FFmpeg's.
        picture = pyav().VideoFrame.from_ndarray(
            cv2.cvtColor(image_rgb, cv2.COLOR_RGB2YUV_I420), format="yuv420p"
        )
        picture.pts, picture.time_base = self._count, self._context.time_base
        self._times[self._count] = self.clock.ticks(pts_s)
        self._count += 1
        return self._timed(self._context.encode(picture))

    def finish(self) -> list[Any]:
        """The packets that the encoder still holds."""
        return self._timed(self._context.encode(None)) if self._count else []

    def _timed(self, packets: list[Any]) -> list[Any]:
        for packet in packets:
            packet.time_base = self.clock.time_base
            packet.pts = packet.dts = self._times.pop(packet.pts)
            packet.duration = self.clock.step
        return packets


class Muxer:
    """A container with one video in it, opened for writing. One thread uses it.

    Args:
        url: of FFmpeg's.
        what: how messages call it; without credentials.
        codec: a key of CODECS.
        pixel_aspect: width of a pixel over its height; players show the picture accordingly.
        container, options: FFmpeg's name of the format, and its options.
        hint: what to do where it cannot be written.
    Attributes:
        codec: name of the codec.
        frames: pictures taken.
        size_bytes: of the packets so far.
        waiting_bytes: what a fragmented mp4 may still add to the disk: packets since the last keyframe, one
            more, and its index.
    Raises:
        StreamError: the target cannot be opened, or the codec cannot hold this size.
        Unsupported: this FFmpeg lacks the encoder.
    """

    def __init__(
        self,
        url: str,
        size_hw: tuple[int, int],
        fps: float,
        *,
        what: str,
        codec: str,
        container: str,
        options: Mapping[str, str],
        hint: str,
        pixel_aspect: float = 1.0,
    ) -> None:
        self.codec, self.frames, self.size_bytes = codec, 0, 0
        self._keyframe_bytes = self._since_bytes = 0
        self._what, self._hint = what, hint
        av, row = pyav(), CODECS[codec]
        check_encoder(codec, what)
        try:
            self._container = av.open(url, "w", format=container, options=dict(options))
        except (OSError, av.FFmpegError) as error:
            raise self._failed("cannot be opened", error) from error
        try:
            self._stream = self._container.add_stream(row.encoder, rate=exact_rate(fps))
            self._encoder = Encoder(self._stream.codec_context, row, size_hw, exact_rate(fps), pixel_aspect)
            self._stream.time_base = self._encoder.clock.time_base
            # Opened here, so that a size that it cannot hold is told now; the header goes out with the first
            # packet.
            self._stream.codec_context.open()
        except (OSError, av.FFmpegError) as error:
            self._abandon()
            height, width = size_hw
            raise self._failed(
                f"cannot be written as {codec} of {width}x{height} at {fps:g} fps", error
            ) from error

    @property
    def waiting_bytes(self) -> int:
        return self._since_bytes + self._keyframe_bytes + _INDEX_BYTES * self.frames

    def start(self) -> None:
        """Write the container's head now, which is where a network is connected; without this, the first
        picture does it.
        """
        av = pyav()
        try:
            self._container.start_encoding()
        except (OSError, av.FFmpegError) as error:
            self._abandon()
            raise self._failed("cannot be opened", error) from error

    def write(self, image_rgb: ImageU8, pts_s: float) -> None:
        """Add a picture. Raises StreamError where the target takes no more."""
        av = pyav()
        try:
            self._mux(self._encoder.encode(image_rgb, pts_s))
        except (OSError, av.FFmpegError) as error:
            raise self._failed(f"frame {self.frames} could not be written", error) from error
        self.frames += 1

    def close(self) -> None:
        """Finish the video. Raises StreamError where that fails; the target is closed all the same."""
        av = pyav()
        try:
            self._mux(self._encoder.finish())
            self._container.close()
        except (OSError, av.FFmpegError) as error:
            self._abandon()
            raise self._failed("could not be finished", error) from error

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self.size_bytes += packet.size
            if packet.is_keyframe:
                self._keyframe_bytes, self._since_bytes = packet.size, 0
            self._since_bytes += packet.size
            self._container.mux(packet)

    def _abandon(self) -> None:
        av = pyav()
        try:
            self._container.close()
        except (OSError, av.FFmpegError):
            return  # the first error is the one that counts

    def _failed(self, what: str, error: Exception) -> StreamError:
        # Its text may quote the URL, and that a password.
        reason = getattr(error, "strerror", None) or scrub(str(error))
        return StreamError(f"{self._what}: {what}: {reason}", hint=self._hint)


def check_encoder(codec: str, what: str) -> None:
    """Raises Unsupported where this FFmpeg cannot encode `codec`."""
    av = pyav()
    try:
        av.codec.Codec(CODECS[codec].encoder, "w")
    except av.codec.codec.UnknownCodecError as error:
        others = " or ".join(f"#codec={name}" for name in CODECS if name != codec)
        raise Unsupported(
            f"{what}: this FFmpeg has no encoder {CODECS[codec].encoder} for {codec}",
            hint=f"take another codec: {others}",
        ) from error
