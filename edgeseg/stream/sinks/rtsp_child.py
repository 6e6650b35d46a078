"""An RTSP server in a process of its own, run by a Python that has GStreamer: it shows what comes on stdin.

    python3 rtsp_child.py HOST PORT

A message is a head of 7 bytes, big endian (kind: 1 byte, stream: 2, length of the body: 4), and a body: kind
0 names the path of a stream, 1 is a packet of H.264 (Annex B, one picture), 2 one that starts with a
keyframe, 3 ends a stream. It prints "ready", or why not, in one line, "named" when a path can be watched, and
ends with its stdin. It imports nothing of edgeseg, which the system's Python does not have.
"""

from __future__ import annotations

import struct
import sys
import threading
from typing import Any, BinaryIO

HEAD = struct.Struct(">BHI")
NAME, DELTA, KEY, END = range(4)

_LAUNCH = (
    "( appsrc name=video is-live=true do-timestamp=true format=time max-buffers=60 leaky-type=downstream"
    " caps=video/x-h264,stream-format=byte-stream,alignment=au ! h264parse config-interval=-1 ! rtph264pay"
    " name=pay0 pt=96 )"
)


class Stream:
    """One path. Packets go to the pipeline that GStreamer makes when the first viewer comes, from the next
    keyframe on.
    """

    def __init__(self, glib: Any, gst: Any, rtsp: Any, server: Any, path: str) -> None:
        self._gst, self._server, self._path = gst, server, path
        self._lock = threading.Lock()
        self._entry: Any = None
        self._started = False
        factory = rtsp.RTSPMediaFactory()
        factory.set_launch(_LAUNCH)
        factory.set_shared(True)
        factory.set_latency(0)
        factory.connect("media-configure", self._configure)
        server.get_mount_points().add_factory(path, factory)

    def push(self, data: bytes, is_key: bool) -> None:
        with self._lock:
            if self._entry is None or not (self._started or is_key):
                return
            self._started = True
            entry = self._entry
        entry.emit("push-buffer", self._gst.Buffer.new_wrapped(data))

    def end(self) -> None:
        self._server.get_mount_points().remove_factory(self._path)
        with self._lock:
            entry, self._entry = self._entry, None
        if entry is not None:
            entry.emit("end-of-stream")

    def _configure(self, factory: Any, media: Any) -> None:
        with self._lock:
            self._entry, self._started = media.get_element().get_child_by_name("video"), False
        media.connect("unprepared", self._unprepared)

    def _unprepared(self, media: Any) -> None:
        with self._lock:
            self._entry = None


def read_messages(stdin: BinaryIO, make: Any) -> None:
    """Act on what comes, until stdin ends."""
    streams: dict[int, Any] = {}
    while len(head := stdin.read(HEAD.size)) == HEAD.size:
        kind, number, length = HEAD.unpack(head)
        body = stdin.read(length)
        if len(body) < length:
            return
        if kind == NAME:
            streams[number] = make(body.decode())
            print("named", flush=True)
        elif kind == END:
            streams.pop(number).end()
        else:
            streams[number].push(body, kind == KEY)


def main() -> None:
    host, port = sys.argv[1:]
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    missing = [
        name for name in ("appsrc", "h264parse", "rtph264pay") if Gst.ElementFactory.find(name) is None
    ]
    if missing:
        sys.exit(print(f"GStreamer lacks {', '.join(missing)}", flush=True))
    server = GstRtspServer.RTSPServer()
    server.set_address(host)
    server.set_service(port)
    if not server.attach(None):
        sys.exit(print("the port cannot be had", flush=True))
    loop = GLib.MainLoop()

    def serve() -> None:
        try:
            read_messages(sys.stdin.buffer, lambda path: Stream(GLib, Gst, GstRtspServer, server, path))
        finally:
            loop.quit()

    threading.Thread(target=serve, daemon=True).start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
