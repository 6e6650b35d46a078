"""RTSP out, H.264: served from here, or pushed to a server.

    rtsp://0.0.0.0:8554/cam             served on every network of this machine, by GStreamer's RTSP server
    rtsp://127.0.0.1:8554/cam#serve=1   served on one address
    rtsp://server:8554/cam              pushed (ANNOUNCE and RECORD, over TCP) to a server such as MediaMTX

Pictures are drawn, compressed and sent on a thread of the sink, always the newest: a network that is slow
makes the picture jump, and holds nothing up.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.muxer import Muxer
from edgeseg.stream.sinks.options import flag, read_options
from edgeseg.stream.sinks.rtsp_server import ServedStream
from edgeseg.stream.sinks.views import VIEW, View, view_of
from edgeseg.stream.uris import redact
from edgeseg.stream.watch.latest import LatestWorker

_EVERYWHERE = ("0.0.0.0", "::")
_PORT = 554
_TIMEOUT_S = 2.0


class RtspOut(FrameSink):
    """A view as an RTSP stream. A server that cannot be reached, or went away, is a StreamError.

    Args:
        serve: True to serve, False to push; where None, addresses that stand for every network are served.
    """

    def __init__(self, address: str, view: View, *, serve: bool | None = None) -> None:
        self.name = redact(address)
        parts = urlsplit(address)
        try:
            port = parts.port or _PORT
        except ValueError:
            port = 0
        if not parts.hostname or not port or not parts.path.strip("/"):
            raise StreamError(
                f"{self.name}: not the address of a stream", hint="write it as rtsp://0.0.0.0:8554/name"
            )
        self._serve = parts.hostname in _EVERYWHERE if serve is None else serve
        if self._serve and (parts.username or parts.scheme.lower() == "rtsps"):
            raise StreamError(
                f"{self.name}: what is served from here has neither login nor encryption",
                hint=(
                    "serve it on rtsp://127.0.0.1:8554/name#serve=1, or push it to a server that asks for"
                    " them"
                ),
            )
        self._address, self._host, self._port, self._path = address, parts.hostname, port, parts.path
        self._view = view
        self._out: Muxer | ServedStream | None = None
        self._worker: LatestWorker[Result] | None = None

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if fps <= 0:
            raise StreamError(
                f"{self.name}: a stream needs a frame rate, and pictures have none",
                hint="--source 'FOLDER/?fps=10'",
            )
        self._size_hw = size_hw
        shown_hw = self._view.size_hw(size_hw)
        if self._serve:
            self._out = ServedStream(
                self._host,
                self._port,
                self._path,
                shown_hw,
                fps,
                what=self.name,
                pixel_aspect=self.pixel_aspect,
            )
        else:
            self._out = muxer = Muxer(
                self._address,
                shown_hw,
                fps,
                what=self.name,
                codec="h264",
                container="rtsp",
                options={"rtsp_transport": "tcp", "timeout": str(int(1e6 * _TIMEOUT_S))},
                pixel_aspect=self.pixel_aspect,
                hint=(
                    "check that a server which takes streams (such as MediaMTX) runs there, and user and"
                    " password"
                ),
            )
            muxer.start()
        self._worker = LatestWorker("edgeseg-rtsp", self._show)

    def write(self, result: Result) -> None:
        if self._worker is None:
            raise RuntimeError("the sink is not open")
        if result.mask.shape != self._size_hw:
            raise StreamError(
                f"{self.name}: frame {result.index} has another size than the stream",
                hint="show pictures of one size, or write masks",
            )
        self._worker.offer(result)

    def close(self) -> None:
        worker, self._worker = self._worker, None
        out, self._out = self._out, None
        # A thread that hangs in the network keeps what it works with.
        if out is not None and (worker is None or worker.close()):
            out.close()

    def _show(self, result: Result) -> None:
        if self._out is not None:
            self._out.write(self._view.draw(result), result.frame.pts_s)


def from_uri(uri: str, opacity: float) -> RtspOut:
    """Return the stream of `rtsp://HOST/PATH#serve=1`. Raises StreamError for a malformed option."""
    address, options = read_options(uri, {**VIEW, "serve": flag})
    return RtspOut(address, view_of(options, opacity), serve=options.get("serve"))
