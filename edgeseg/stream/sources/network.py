"""Sources over a network, RTSP, HTTP and UDP, by FFmpeg (PyAV), and cameras by V4L2.

Every wait in here has a time-out. Pictures are handed over as soon as they are decoded; those that a loss has
damaged or smeared are left out, or marked (see `stream.decoder`): a grey smear is worse than a missing frame.
What follows a "#" in the URI are options:

    rtsp://user:password@camera/stream?channel=1#transport=udp&timeout=3
                          transport: tcp (default) or udp; timeout in seconds
    rtsp://camera/stream#damaged=show&threads=2
                          damaged: skip (default) or show; threads of the codec
    /dev/video0#size=1280x720&fps=30
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.contracts import LiveSource, Tell, silent
from edgeseg.errors import AccessDenied, StreamError
from edgeseg.images import opencv
from edgeseg.specs import Frame
from edgeseg.stream.sources.clip import Clip, rate_of, size_of
from edgeseg.stream.sources.convert import failures, pyav
from edgeseg.stream.sources.decoder import Decoder, choose_video, reason_of
from edgeseg.stream.sources.places import DAMAGED
from edgeseg.stream.uris import Connection, choice, number, redact, scrub, split_options
from edgeseg.text import quoted

_TIMEOUT_S = 5.0
_MOST_FPS = 1_000.0
# How long FFmpeg looks at a stream before it hands over the first frame; its own 5 s make every reconnect
# take seconds.
_ANALYZE_US = 200_000
_TRANSPORTS = ("tcp", "udp")
# Formats without a clock: FFmpeg makes their times up from a rate that it guesses.
_CLOCKLESS = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "jpeg_pipe", "image2pipe"}
# Pictures one after another until one side has enough. Some cameras state a length all the same.
_ENDLESS = {"mpjpeg"}
_PLAYLISTS = {"hls", "applehttp", "dash"}


class NetworkStream(LiveSource):
    """A stream that FFmpeg reads over the network: `rtsp://`, `rtsps://`, `http://`, `https://` (MJPEG and
    others), `udp://`.

    Whether what is behind an HTTP address is live is known once it is open: a clip or a finished playlist is
    read whole, like a file, and what is endless is not. That is decided by what the container and the server
    say of its length.

    Attributes:
        is_live: valid once open; before, a stream that cannot be reached is tried again as a live one is.
        damaged, undecodable: of this connection, see `stream.decoder`.
        tell: gets the events of reading.
    """

    def __init__(self, uri: str, name: str | None = None, connection: Connection | None = None) -> None:
        self.is_live = True
        self.fps = 0.0
        self.frame_count: int | None = None
        self.tell: Tell = silent
        self._uri, self._name = uri, name
        self._scheme = uri.partition(":")[0].lower()
        allowed = {"timeout", "fps", "threads", "damaged"} | (
            {"transport"} if self._scheme.startswith("rtsp") else set()
        )
        self._address, options = split_options(uri, allowed)
        self.source_id = name or redact(self._address)
        self._connection = connection = connection or Connection()
        if connection.timeout_s is not None:
            options.setdefault("timeout", f"{connection.timeout_s:g}")
        self._timeout_s = number(uri, options, "timeout", _TIMEOUT_S, 0.1, 3600)
        self._stated_fps = number(uri, options, "fps", 0.0, 0.001, _MOST_FPS)
        self._threads = int(number(uri, options, "threads", 0, 1, 64))
        if connection.transport is not None:
            options.setdefault("transport", connection.transport)
        self._transport = choice(uri, options, "transport", _TRANSPORTS)
        self._keep_damaged = choice(uri, options, "damaged", DAMAGED)
        self._clockless = False
        self._container: Any = None
        self._decoder: Decoder | None = None
        self._clip: Clip | None = None

    @property
    def stamps_may_jump(self) -> bool:
        return self._clip is not None and self._clip.stamps_may_jump

    @property
    def damaged(self) -> int:
        return self._decoder.damaged if self._decoder else 0

    @property
    def undecodable(self) -> int:
        return self._decoder.undecodable if self._decoder else 0

    def fresh(self) -> NetworkStream:
        return NetworkStream(self._uri, self._name, self._connection)

    def open(self) -> None:
        try:
            self._container = self._connected()
        except failures() as error:
            raise self._failure(error) from None
        if self._scheme.startswith("http") and _is_finite(self._container):
            self._open_clip()
            return
        stream = choose_video(self._container, self._shown)
        self._clockless = bool(_CLOCKLESS & self._formats)
        self.fps = self._stated_fps or (0.0 if self._clockless else rate_of(stream))
        self._decoder = Decoder(
            self._container,
            stream,
            self._shown,
            threads=self._threads,
            damaged=self._keep_damaged,
            joins=self._scheme.startswith("http"),
            tell=self.tell,
        )

    def frames(self) -> Iterator[Frame]:
        if self._clip is not None:
            yield from self._clip.frames(self.source_id)
            return
        if self._decoder is None:
            raise RuntimeError("the source is not open")
        start_s, pts_s, step_s = time.monotonic(), 0.0, 1 / self.fps if self.fps else 0.0
        try:
            for index, picture in enumerate(self._decoder.pictures()):
                now_s = time.monotonic()
                if self._clockless:
                    pts_s = now_s - start_s
                elif picture.time_s is not None:
                    pts_s = picture.time_s
                elif index:  # the first pictures of a connection often have no time yet
                    pts_s += step_s
                yield Frame(
                    picture.image_rgb,
                    index,
                    pts_s,
                    now_s,
                    self.source_id,
                    pixel_aspect=picture.pixel_aspect,
                    damaged=picture.damaged,
                )
        except failures() as error:
            raise self._failure(error) from None
        # A live playlist ends where its list says so; other live things end where they break off.
        if self._container is not None and not _PLAYLISTS & self._formats:
            raise StreamError(
                f"{self._shown}: the stream was ended by the other side",
                hint="check the camera or the server",
            )

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()

    @property
    def _shown(self) -> str:
        return redact(self._address)

    @property
    def _formats(self) -> set[str]:
        return set(self._container.format.name.split(","))

    def _open_clip(self) -> None:
        self._clip = Clip(
            self._container,
            self._shown,
            threads=self._threads,
            damaged=self._keep_damaged,
            tell=self.tell,
            hint="run again; where it breaks off at the same place, it is the server's file that is damaged",
        )
        self._decoder = self._clip.decoder
        self.is_live = False
        self.fps, self.frame_count = self._stated_fps or self._clip.fps, self._clip.frame_count

    def _connected(self) -> Any:
        av = pyav()
        # The pair: time-outs of opening and of each read. The option in microseconds is that of the socket
        # below.
        settings: dict[str, Any] = {"timeout": (self._timeout_s, self._timeout_s), "options": self._options()}
        try:
            return av.open(self._address, **settings)
        except av.InvalidDataError:
            if not self._scheme.startswith("http"):
                raise
            # Some cameras send their first JPEG without the boundary that a multipart answer begins with.
            container = av.open(self._address, format="mjpeg", **settings)
            if container.streams.video and container.streams.video[0].codec_context.width:
                return container
            container.close()
            raise

    def _options(self) -> dict[str, str]:
        options = {"timeout": str(int(1e6 * self._timeout_s)), "analyzeduration": str(_ANALYZE_US)}
        if self._scheme.startswith("rtsp"):
            options["rtsp_transport"] = self._transport
        if self._scheme == "udp":
            # A reader that is late loses packets, not the connection.
            options |= {"overrun_nonfatal": "1", "fifo_size": "20000"}
        return options

    def _failure(self, error: Exception) -> StreamError:
        """FFmpeg's error as ours. Its own text quotes the URI with the password."""
        av = pyav()
        if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
            return AccessDenied(
                f"{self._shown}: user name or password are refused",
                hint="write them as rtsp://USER:PASSWORD@HOST/..., with %40 for @ and %2F for / in them",
            )
        reason = (
            f"no answer within {self._timeout_s:g} s" if isinstance(error, av.ExitError) else reason_of(error)
        )
        return StreamError(
            f"{self._shown}: {scrub(reason)}",
            hint="check the camera: is it on, is the address right, who else uses it",
        )


def _is_finite(container: Any) -> bool:
    """Whether what is read has an end: a length in time, or in bytes of anything but a list."""
    names = set(container.format.name.split(","))
    if names & _ENDLESS:
        return False
    return bool(container.duration) or (not names & _PLAYLISTS and size_of(container) > 0)


class Camera(LiveSource):
    """A camera of this machine, by Video4Linux: `/dev/video0` or `v4l2://0`; `#size=1280x720&fps=30` asks it
    for that.
    """

    is_live = True

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.fps = 0.0
        self.frame_count: int | None = None
        self._uri, self._name = uri, name
        address, options = split_options(uri, {"size", "fps"})
        self.source_id = name or address
        device = address.removeprefix("v4l2://")
        self._device = Path(f"/dev/video{device}" if device.isdecimal() else device)
        self._wanted_fps = number(uri, options, "fps", 0.0, 0.001, _MOST_FPS)
        self._wanted_hw = parse_size(uri, options["size"]) if "size" in options else None
        self._capture: Any = None

    def fresh(self) -> Camera:
        return Camera(self._uri, self._name)

    def open(self) -> None:
        cv2 = opencv()
        if not self._device.exists():
            raise StreamError(f"{self._device}: no such camera", hint="see which there are: ls /dev/video*")
        self._capture = cv2.VideoCapture(str(self._device), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self._device}: cannot be opened as a camera (in use, no permission, or no camera)",
                hint=(
                    f"see who uses it: fuser {quoted(self._device)}; and join the group: sudo usermod -aG"
                    " video $USER"
                ),
            )
        if self._wanted_hw:
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._wanted_hw[0])
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._wanted_hw[1])
        if self._wanted_fps:
            self._capture.set(cv2.CAP_PROP_FPS, self._wanted_fps)
        # One picture in the driver, not four: each of them is a frame of delay.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= _MOST_FPS else self._wanted_fps

    def frames(self) -> Iterator[Frame]:
        cv2 = opencv()
        start_s, index = time.monotonic(), 0
        while True:
            good, image_bgr = self._capture.read()
            if not good:
                raise StreamError(
                    f"{self._device}: the camera gives no pictures any more",
                    hint="check its cable: dmesg | tail",
                )
            now_s = time.monotonic()
            yield Frame(
                cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, now_s - start_s, now_s, self.source_id
            )
            index += 1

    def close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def parse_size(uri: str, text: str) -> tuple[int, int]:
    """ "1280x720" -> (720, 1280), height first. Raises StreamError."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise StreamError(f"{redact(uri)}: size={text} is no size", hint="write #size=1280x720")
    return int(match[2]), int(match[1])
