"""A real RTSP server that others push to, for tests; it runs on the system's Python: rtsp_recorder.py PORT

What is pushed to /in can be watched at no place: it decodes it, and prints the number of pictures so far, one
a line.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( rtph264depay name=depay0 ! h264parse ! avdec_h264 ! fakesink name=out signal-handoffs=true"
        " sync=false )"
    )
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    count = 0

    def picture(*_: object) -> None:
        nonlocal count
        count += 1
        print(count, flush=True)

    def configure(factory: object, media: object) -> None:
        media.get_element().get_child_by_name("out").connect("handoff", picture)

    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory("/in", factory)
    if not server.attach(None):
        raise SystemExit(f"port {sys.argv[1]} cannot be had")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
