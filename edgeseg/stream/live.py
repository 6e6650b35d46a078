"""Live sources: RTSP, HTTP and UDP by FFmpeg (PyAV), cameras by V4L2.

Every wait in here has a time-out. Pictures are handed over as soon as they are decoded, and are never shown where the decoder
says that they are damaged: a grey smear is worse than a missing frame. What follows a "#" in the URI are options:

    rtsp://user:password@camera/stream?channel=1#transport=udp&timeout=3     transport: tcp (default) or udp; timeout in seconds
    /dev/video0#size=1280x720&fps=30
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgeseg.errors import AccessDenied, StreamError, require
from edgeseg.images import opencv
from edgeseg.specs import Frame, ImageU8
from edgeseg.stream.uris import number, redact, scrub, split_options
from edgeseg.text import quoted

_TIMEOUT_S = 5.0
_MOST_FPS = 1_000.0
# How long FFmpeg looks at a stream before it hands over the first frame; its own 5 s make every reconnect take seconds.
_ANALYZE_US = 200_000
_TRANSPORTS = ("tcp", "udp")
# Formats without a clock: FFmpeg makes their times up from a rate that it guesses.
_CLOCKLESS = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "jpeg_pipe", "image2pipe"}


class NetworkStream:
    """A stream that FFmpeg reads over the network: `rtsp://`, `rtsps://`, `http://`, `https://` (MJPEG and others), `udp://`.

    Attributes:
        damaged: pictures and packets of this connection that could not be decoded whole.
    """

    is_live = True

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.fps = 0.0
        self.frame_count: int | None = None
        self.damaged = 0
        self._uri, self._name = uri, name
        self._scheme = uri.partition(":")[0].lower()
        allowed = {"timeout", "fps", "threads"} | ({"transport"} if self._scheme.startswith("rtsp") else set())
        self._address, options = split_options(uri, allowed)
        self.source_id = name or redact(self._address)
        self._timeout_s = number(uri, options, "timeout", _TIMEOUT_S, 0.1, 3600)
        self._stated_fps = number(uri, options, "fps", 0.0, 0.001, _MOST_FPS)
        self._threads = int(number(uri, options, "threads", 0, 1, 64))
        self._transport = options.get("transport", "tcp")
        if self._transport not in _TRANSPORTS:
            raise StreamError(
                f"{redact(uri)}: transport={self._transport} is not known", hint=f"write #transport={' or '.join(_TRANSPORTS)}"
            )
        self._clockless = False
        self._container: Any = None

    def fresh(self) -> NetworkStream:
        return NetworkStream(self._uri, self._name)

    def open(self) -> None:
        av = _pyav()
        try:
            # The pair: time-outs of opening and of each read. The option in microseconds is that of the socket below.
            self._container = av.open(self._address, timeout=(self._timeout_s, self._timeout_s), options=self._options())
            if not self._container.streams.video:
                raise StreamError(f"{self._shown}: there is no video in it", hint="check the path of the stream on the camera")
            stream = self._container.streams.video[0]
            stream.codec_context.thread_count = self._threads
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from None
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        self._clockless = bool(_CLOCKLESS & set(self._container.format.name.split(",")))
        self.fps = self._stated_fps or (float(rate) if 0 < rate <= _MOST_FPS and not self._clockless else 0.0)

    def frames(self) -> Iterator[Frame]:
        av = _pyav()
        reformatter = av.video.reformatter.VideoReformatter()
        start_s, pts_s, step_s = time.monotonic(), 0.0, 1 / self.fps if self.fps else 0.0
        for index, picture in enumerate(self._pictures()):
            image_rgb: ImageU8 = reformatter.reformat(picture, format="rgb24").to_ndarray()
            now_s = time.monotonic()
            if self._clockless:
                pts_s = now_s - start_s
            elif picture.time is not None:
                pts_s = float(picture.time)
            elif index:  # the first pictures of a connection often have no time yet
                pts_s += step_s
            yield Frame(image_rgb, index, pts_s, now_s, self.source_id)
        if self._container is not None and not (self._scheme.startswith("http") and self._container.duration):
            raise StreamError(f"{self._shown}: the stream was ended by the other side", hint="check the camera or the server")

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _pictures(self) -> Iterator[Any]:
        """Decoded pictures, those that are whole."""
        av = _pyav()
        container = self._container
        try:
            for packet in container.demux(container.streams.video[0]):
                try:
                    pictures = packet.decode()
                except av.InvalidDataError:
                    self.damaged += 1
                    continue
                for picture in pictures:
                    if picture.is_corrupt:
                        self.damaged += 1
                    else:
                        yield picture
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from None

    @property
    def _shown(self) -> str:
        return redact(self._address)

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
        av = _pyav()
        if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
            return AccessDenied(
                f"{self._shown}: user name or password are refused",
                hint="write them as rtsp://USER:PASSWORD@HOST/..., with %40 for @ and %2F for / in them",
            )
        reason = f"no answer within {self._timeout_s:g} s" if isinstance(error, av.ExitError) else _reason(error)
        return StreamError(
            f"{self._shown}: {scrub(reason)}", hint="check the camera: is it on, is the address right, who else uses it"
        )


class Camera:
    """A camera of this machine, by Video4Linux: `/dev/video0` or `v4l2://0`; `#size=1280x720&fps=30` asks it for that."""

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
                hint=f"see who uses it: fuser {quoted(self._device)}; and join the group: sudo usermod -aG video $USER",
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
                raise StreamError(f"{self._device}: the camera gives no pictures any more", hint="check its cable: dmesg | tail")
            now_s = time.monotonic()
            yield Frame(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), index, now_s - start_s, now_s, self.source_id)
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


def _pyav() -> Any:
    return require("av", extra="video", purpose="read network streams")


def _reason(error: Exception) -> str:
    """What went wrong, without the URI that FFmpeg adds."""
    return str(getattr(error, "strerror", None) or error)
