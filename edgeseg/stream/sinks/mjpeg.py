"""HTTP out: a small server that shows sinks as MJPEG, which every browser and player takes.

    http://127.0.0.1:8090/cam        the moving picture
    http://127.0.0.1:8090/cam.jpg    the newest picture
    http://127.0.0.1:8090/           what there is

Sinks of one address share a server. Pictures are drawn and compressed only while somebody looks, once for all
who look, on a thread of the sink; each viewer gets the newest when it is ready for one, so a slow one misses
pictures and holds nothing up.
"""

from __future__ import annotations

import base64
import hmac
import html
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.images import opencv
from edgeseg.results import Result
from edgeseg.specs import ImageU8, LabelSpace
from edgeseg.stream.sinks.options import read_options, whole
from edgeseg.stream.sinks.views import VIEW, View, view_of
from edgeseg.stream.uris import redact
from edgeseg.stream.watch.latest import LatestWorker

_VIEWERS = 16
_CLIENT_S = 5.0
_CLIENT_BYTES = 1 << 18  # what the system holds for a viewer: a few pictures, not seconds of them
_HINT = "write it as http://127.0.0.1:8090/name; 0.0.0.0 shows it to the whole network"


class JpegStream:
    """The newest JPEG of one sink, and those who wait for it.

    Attributes:
        viewers: how many look at it now.
    """

    def __init__(self) -> None:
        self.viewers = 0
        self.closed = False
        self._changed = threading.Condition()
        self._newest: tuple[int, bytes, int] = (0, b"", 0)

    def publish(self, jpeg: bytes, frame_index: int) -> None:
        """Show a new picture."""
        with self._changed:
            self._newest = (self._newest[0] + 1, jpeg, frame_index)
            self._changed.notify_all()

    def newer(self, than: int, timeout_s: float) -> tuple[int, bytes, int] | None:
        """The newest picture, its number here (from 1), and its frame's index; None where none came or the
        stream was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._newest[0] > than, timeout_s)
            return None if self.closed or self._newest[0] <= than else self._newest

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def join(self) -> bool:
        """Count a viewer. False where there are too many already."""
        with self._changed:
            if self.viewers >= _VIEWERS:
                return False
            self.viewers += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self.viewers -= 1

    @property
    def last(self) -> int:
        """Number of the newest picture."""
        return self._newest[0]


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        server = cast(_Server, self.server)
        path = unquote(urlsplit(self.path).path)
        name = path.removesuffix(".jpg")
        stream, login = server.streams.get(path) or server.streams.get(name) or (None, "")
        given = self.headers.get("Authorization", "")
        if login and not hmac.compare_digest(given.encode(), login.encode()):
            self._answer(
                401, b"a user name and a password are needed", {"WWW-Authenticate": 'Basic realm="edgeseg"'}
            )
        elif stream is None and path == "/":
            links = "".join(
                f'<li><a href=".{html.escape(name)}">{html.escape(name)}</a></li>'
                for name in sorted(server.streams)
            )
            self._answer(
                200,
                f"<!doctype html><title>edgeseg</title><ul>{links}</ul>".encode(),
                {"Content-Type": "text/html"},
            )
        elif stream is None:
            self._answer(404, b"no such picture")
        elif not stream.join():
            self._answer(503, b"too many viewers")
        else:
            try:
                if path in server.streams:
                    self._show(stream)
                else:
                    self._show_one(stream)
            except OSError:
                self.close_connection = True  # the viewer went away, or takes nothing any more
            finally:
                stream.leave()

    def _show(self, stream: JpegStream) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CLIENT_BYTES)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        number = stream.last
        while not stream.closed:
            newest = stream.newer(number, 1.0)
            if newest is not None:
                number, jpeg, index = newest
                head = (
                    f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nX-Frame:"
                    f" {index}\r\n\r\n"
                )
                self.wfile.write(head.encode() + jpeg + b"\r\n")

    def _show_one(self, stream: JpegStream) -> None:
        newest = stream.newer(stream.last, _CLIENT_S)
        if newest is None:
            self._answer(503, b"no picture came")
        else:
            self._answer(200, newest[1], {"Content-Type": "image/jpeg", "X-Frame": str(newest[2])})

    def _answer(self, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": "text/plain", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Viewers come and go unsaid."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self.streams: dict[str, tuple[JpegStream, str]] = {}
        super().__init__((host, port), _Handler)
        threading.Thread(target=self.serve_forever, name="edgeseg-mjpeg", daemon=True, args=(0.1,)).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer whose request broke off is nobody's problem."""


_servers: dict[tuple[str, int], _Server] = {}
_servers_lock = threading.Lock()


class MjpegOut(FrameSink):
    """A view as MJPEG over HTTP: `http://HOST:PORT/NAME`, with `user:password@` for those who must log in
    (HTTP Basic).

    Attributes:
        port: where it listens; the free one that was found, for a URI with port 0.
    """

    def __init__(self, address: str, view: View, *, quality: int = 80) -> None:
        self.name = redact(address)
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None or parts.query or parts.fragment:
            raise StreamError(f"{self.name}: not an address to show pictures at", hint=_HINT)
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._login = f"Basic {base64.b64encode(login.encode()).decode()}" if parts.username else ""
        self._host, self.port, self._path = parts.hostname, port, unquote(parts.path) or "/"
        self._asked_port = port
        self._view, self._quality = view, quality
        self._server: _Server | None = None
        self._worker: LatestWorker[Result] | None = None

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        self._stream = JpegStream()
        with _servers_lock:
            key = (self._host, self._asked_port)
            try:
                server = _servers.get(key) or _Server(*key)
            except OSError as error:
                raise StreamError(
                    f"{self.name}: cannot listen there: {error.strerror or error}",
                    hint="take another port, or end what holds it",
                ) from error
            if self._path in server.streams:
                raise StreamError(
                    f"{self.name}: another sink shows its pictures there", hint="give this sink another name"
                )
            server.streams[self._path] = (self._stream, self._login)
            if self._asked_port:
                _servers[key] = server
        self._server, self.port = server, server.server_address[1]
        self._worker = LatestWorker("edgeseg-mjpeg-encoder", self._encode)

    def write(self, result: Result) -> None:
        if self._worker is None:
            raise RuntimeError("the sink is not open")
        if self._stream.viewers:
            self._worker.offer(result)

    def close(self) -> None:
        worker, self._worker = self._worker, None
        server, self._server = self._server, None
        if worker is not None:
            worker.close()
        if server is None:
            return
        self._stream.close()
        with _servers_lock:
            del server.streams[self._path]
            if server.streams:
                return
            _servers.pop((self._host, self._asked_port), None)
        server.shutdown()
        server.server_close()

    def _encode(self, result: Result) -> None:
        self._stream.publish(encode_jpeg(self._view.show(result), self._quality), result.index)


def encode_jpeg(image_rgb: ImageU8, quality: int) -> bytes:
    """An RGB image (H, W, 3) uint8 as the bytes of a JPEG file; quality 1..100."""
    cv2 = opencv()
    encoded: np.ndarray = cv2.imencode(
        ".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return encoded.tobytes()


def from_uri(uri: str, opacity: float) -> MjpegOut:
    """Return the server of `http://HOST:PORT/PATH#quality=80`. Raises StreamError for a malformed option."""
    address, options = read_options(uri, {**VIEW, "quality": whole(1, 100)})
    return MjpegOut(address, view_of(options, opacity), quality=options.get("quality", 80))
