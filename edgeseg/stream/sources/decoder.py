"""One decoder for files and for networks: packets of a PyAV container in, pictures out, and of the others a
count and a reason.

A picture that could not be decoded whole, or not be converted, is never handed over as good. What refers to
what is lost is smeared, and no decoder flags it: it is left out until the next key frame, or handed over
marked as damaged where that is asked for. What stands before the first key frame of a recording that begins
in the middle is no damage, and counts by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from edgeseg.contracts import Tell, silent
from edgeseg.errors import StreamError
from edgeseg.specs import ImageU8
from edgeseg.stream.sources.convert import Converter, Refused, failures
from edgeseg.stream.sources.losses import Losses
from edgeseg.stream.sources.places import Damaged

_COPY_OPAQUE = 1 << 7
_ATTACHED_PICTURE = 1 << 10
# With one thread these decoders flag every damaged picture that they notice. With a thread a slice they do
# not repair, nor flag, what is missing; with a thread a frame, flags come too late for pictures that are
# given out reordered.
_EXACT = {"h264", "mpeg4", "h263"}
_EXACT_PX = 1920 * 1088
_QUIET_S = 5.0
_HOPELESS = 100
_EARLY = 64
_MOST_HELD = 8
_MOST_IN_FLIGHT = 4096


class Picture(NamedTuple):
    """One picture, upright, (H, W, 3) uint8; `time_s` by the container's clock, None where it has none."""

    image_rgb: ImageU8
    time_s: float | None
    pixel_aspect: float
    damaged: bool


def choose_video(container: Any, what: str) -> Any:
    """The stream that shows moving pictures. Cover art is none.

    Raises:
        StreamError: there is none that can be decoded, and what is there.
    """
    streams = container.streams
    # A number, or an enumeration in older PyAVs.
    videos = [
        one
        for one in streams.video
        if not int(getattr(one.disposition, "value", one.disposition)) & _ATTACHED_PICTURE
    ]
    usable = [one for one in videos if one.codec_context is not None]
    if usable:
        best = streams.best("video")
        return best if best in usable else usable[0]
    if videos:
        raise StreamError(
            f"{what}: its video has a codec that this FFmpeg cannot decode",
            hint=(
                "see which one it is: ffprobe FILE; re-encode it: ffmpeg -i FILE fixed.mp4; or: pip install"
                " --upgrade av"
            ),
        )
    there = ", only sound" if streams.audio else ""
    cover = " and a cover picture" if streams.video else ""
    raise StreamError(f"{what}: there is no video in it{there}{cover}", hint="look at it with: ffprobe FILE")


class Decoder:
    """Pictures of one video stream, in presentation order.

    Args:
        container, stream: of PyAV; the stream is `choose_video`'s.
        what: how messages call it; without credentials.
        threads: of the codec; 0 takes one where only that tells damage for certain (H.264 up to 1080p), else
            FFmpeg decides.
        by_frame: decode several frames at once: faster, and some frames late.
        damaged: "skip" leaves out what a loss may have smeared; "show" hands it over, marked.
        joins: a gap may be where recordings were joined, and not a loss.
        tell: gets the events.
    Attributes:
        shown: pictures handed over.
        damaged: pictures that were left out, or marked, because of a loss or a refusal.
        undecodable: pictures before the first key frame of what begins in the middle.
        packets: read so far.
        end_s: where the last of them ends, by the container's clock.
        first_error: what went wrong first, None where nothing did; `first_error_at`: pictures handed over by
            then.
    """

    def __init__(
        self,
        container: Any,
        stream: Any,
        what: str,
        *,
        threads: int = 0,
        by_frame: bool = False,
        damaged: Damaged = "skip",
        joins: bool = True,
        tell: Tell = silent,
    ) -> None:
        self.shown = self.damaged = self.undecodable = self.packets = 0
        self.end_s = 0.0
        self.first_error: str | None = None
        self.first_error_at = 0
        self._container, self._stream, self._what = container, stream, what
        self._show, self._joins, self._tell = damaged == "show", joins, tell
        self._context = stream.codec_context
        exact = self._context.name in _EXACT and self._context.width * self._context.height <= _EXACT_PX
        self._context.thread_count = threads or int(exact)
        if by_frame and not exact:
            self._context.thread_type = "AUTO"
        if self._context.name == "mjpeg":
            # A JPEG that ends early is an error then, and not a picture that is grey from there on.
            self._context.options = {"err_detect": "explode"}
        self._context.flags |= _COPY_OPAQUE
        self._converter = Converter(lambda text: tell("picture", text))
        self._losses = Losses()
        self._in_flight: set[int] = set()  # times of packets whose picture has not come
        self._first_pts: int | None = None
        self._last_pts: int | None = None
        self._since_first = 0
        self._bad_in_a_row = 0
        self._early_error = ""
        self._told_s = float("-inf")

    @property
    def codec(self) -> str:
        """Codec and pixel format, for messages."""
        return f"{self._context.name}, {self._context.pix_fmt or 'pixel format unknown'}"

    def pictures(self) -> Iterator[Picture]:
        """Every picture, until the end of the container.

        Raises:
            StreamError: not one picture could be made.
            convert.failures: the container cannot be read on; what it held before was handed over.
        """
        broken: Exception | None = None
        held: list[Any] = []
        suspect = False
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except failures() as error:
                broken = error
                break
            if packet is None:
                break
            if packet.size == 0:
                continue  # the mark of the end, or a frame that was dropped where it was recorded
            if packet.is_corrupt or suspect:
                # FFmpeg's parsers flag the packet before the one in which something is missing.
                suspect = packet.is_corrupt
                held.append(packet)
                if len(held) < _MOST_HELD:
                    continue
                packet = None
            # A gap right before a key frame is where two recordings were joined: nothing refers to what is
            # missing.
            joined = self._joins and packet is not None and packet.is_keyframe
            for doubtful in held:
                yield from self._decode(doubtful, lost=not joined)
            held.clear()
            if packet is not None:
                yield from self._decode(packet)
        for doubtful in held:
            yield from self._decode(doubtful, lost=True)
        yield from self._flush()
        if broken is not None:
            raise broken
        if self.shown == 0:
            raise self._nothing()

    def _decode(self, packet: Any, lost: bool = False) -> Iterator[Picture]:
        number = self.packets
        self.packets += 1
        if number == 0 and not packet.is_keyframe:
            self._losses.begin_in_the_middle()
        self._account(packet)
        if lost:
            self._lose(number, "data is missing or damaged")
            if not self._show:
                self._in_flight.discard(packet.pts)
                return
        if packet.is_discard and packet.is_keyframe and packet.pts is not None:
            self._losses.unseen_key(number, packet.pts)
        if packet.is_keyframe:
            self._losses.begin_round(number)
        packet.opaque = number
        yield from self._taken(lambda: packet.decode())

    def _flush(self) -> Iterator[Picture]:
        yield from self._taken(lambda: self._context.decode(None))
        # PyAV may swallow an error of this last call: then the last pictures are missing.
        last_pts, waiting = self._last_pts, self._in_flight
        if last_pts is not None and self.first_error is None and not any(pts <= last_pts for pts in waiting):
            tail = sum(pts > last_pts for pts in waiting)
            if tail:
                self._lose(self.packets, f"the last {tail} pictures cannot be decoded")

    def _taken(self, decode: Callable[[], list[Any]]) -> Iterator[Picture]:
        try:
            frames = decode()
        except EOFError:
            return
        except failures() as error:
            self._lose(self._losses.next_number, f"a picture cannot be decoded: {reason_of(error)}")
            self._check_hope()
            return
        for frame in frames:
            picture = self._picture(frame)
            if picture is not None:
                yield picture

    def _picture(self, frame: Any) -> Picture | None:
        """What is to be shown of a frame; None where nothing is."""
        number = frame.opaque if isinstance(frame.opaque, int) else self.packets - 1
        self._in_flight.discard(frame.pts)
        if frame.is_corrupt:
            self._lose(number, "a picture is damaged")
        # Not the frame's own time base: those of the last call have none.
        ticks = frame.pts if frame.pts is not None else frame.dts
        time_s = None if ticks is None else float(ticks * self._stream.time_base)
        at_s = time.monotonic() if time_s is None else time_s
        begun = not self._losses.in_the_middle
        behind = self._losses.is_behind(number, frame.pts, frame.key_frame and not frame.is_corrupt, at_s)
        if behind and not begun:
            self.undecodable += 1
            return None
        if behind:
            self.damaged += not frame.is_corrupt
            if not self._show:
                self._check_hope()
                return None
        try:
            image_rgb, aspect = self._converter.convert(frame, self._context, self._sample_aspect())
        except Refused as refused:
            self._lose(None, str(refused))
            self._check_hope()
            return None
        if self.shown == 0:
            self._first_shown(frame.pts)
        if frame.pts is not None:
            self._last_pts = frame.pts if self._last_pts is None else max(self._last_pts, frame.pts)
        self.shown += 1
        self._bad_in_a_row = 0
        return Picture(image_rgb, time_s, aspect, behind)

    def _lose(self, number: int | None, reason: str) -> None:
        """Count a picture that is lost; with its place in the order of packets, where others may refer to
        it.
        """
        if self._losses.in_the_middle:
            self._early_error = reason
            self.undecodable += number is None
            return  # it was not to be expected; told with the first picture
        self.damaged += 1
        if self.first_error is None:
            self.first_error, self.first_error_at = reason, self.shown
        if number is not None:
            self._losses.add(number)
        now_s = time.monotonic()
        if now_s - self._told_s >= _QUIET_S:
            self._told_s = now_s
            then = (
                "what refers to it is marked"
                if self._show
                else "pictures are left out until the next key frame"
            )
            self._tell("damaged", reason if number is None else f"{reason}; {then}", count=self.damaged)

    def _check_hope(self) -> None:
        """Raise where a stream gives nothing but damage: it would not end by itself."""
        self._bad_in_a_row += 1
        if self.shown == 0 and self._bad_in_a_row >= _HOPELESS:
            raise self._nothing()

    def _nothing(self) -> StreamError:
        reason = (
            self.first_error
            or self._early_error
            or ("it holds no key frame" if self.packets else "it is empty")
        )
        return StreamError(
            f"{self._what}: holds no picture that can be decoded ({self.codec}): {reason}",
            hint="re-encode it: ffmpeg -i FILE fixed.mp4; or take a newer FFmpeg: pip install --upgrade av",
        )

    def _account(self, packet: Any) -> None:
        """Keep in mind what went in, to know what did not come out."""
        if packet.pts is None:
            return
        self.end_s = max(self.end_s, float((packet.pts + (packet.duration or 0)) * self._stream.time_base))
        if packet.is_discard:
            return
        if self._first_pts is not None and self._since_first < _EARLY:
            self._since_first += 1
            if packet.pts < self._first_pts:
                self.undecodable += 1
                return
        self._in_flight.add(packet.pts)
        if len(self._in_flight) > _MOST_IN_FLIGHT:
            self._in_flight = set(sorted(self._in_flight)[_MOST_IN_FLIGHT // 2 :])

    def _first_shown(self, pts: int | None) -> None:
        """Count and tell what came before the first picture, where nothing was wrong but that it begins
        there.
        """
        if pts is not None and self.first_error is None:
            early = {packet_pts for packet_pts in self._in_flight if packet_pts < pts}
            self._first_pts = pts
            self._in_flight -= early
            self.undecodable += len(early)
        if self.undecodable:
            self._tell(
                "undecodable",
                f"it begins in the middle: {self.undecodable} pictures before its first key frame cannot be"
                " decoded",
                count=self.undecodable,
            )

    def _sample_aspect(self) -> float:
        for ratio in (self._stream.sample_aspect_ratio, self._context.sample_aspect_ratio):
            if ratio is not None and ratio.numerator > 0 and ratio.denominator > 0:
                return float(ratio)
        return 1.0


def reason_of(error: Exception) -> str:
    """What went wrong, without the URI that FFmpeg adds."""
    return str(getattr(error, "strerror", None) or error)
