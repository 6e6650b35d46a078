"""A real RTSP server for tests; it runs on the system's Python, which has GStreamer: rtsp_server.py --port
8554

It serves /cam0, /cam1, ... as H.264, prints "ready" and runs until it is killed. `--user` and `--password`
ask for both.
"""

from __future__ import annotations

import argparse
import os

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def launch_line(options: argparse.Namespace, number: int) -> str:
    """The pipeline of one camera: a moving ball, one key frame a second, no frame held back."""
    width, height = options.size.split("x")
    rate = f"{options.fps}/1"
    return (
        f"( videotestsrc is-live=true pattern={'ball' if number % 2 == 0 else 'smpte75'} "
        f"! video/x-raw,width={width},height={height},framerate={rate},format=I420 "
        f"! x264enc tune=zerolatency speed-preset=ultrafast threads=1 bitrate=400 key-int-max={options.fps} "
        "! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=20)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    if options.user:
        access = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        access.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
        server.set_auth(access)
    for number in range(options.cameras):
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(launch_line(options, number))
        factory.set_shared(True)
        if options.user:
            factory.add_role_from_structure(
                Gst.Structure.new_from_string(
                    "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
                )
            )
        server.get_mount_points().add_factory(f"/cam{number}", factory)
    if not server.attach(None):
        raise SystemExit(f"port {options.port} cannot be had")
    print("ready", flush=True)
    loop, parent = GLib.MainLoop(), os.getppid()
    # A test that was killed leaves no server behind.
    GLib.timeout_add_seconds(1, lambda: os.getppid() == parent or loop.quit())
    loop.run()


if __name__ == "__main__":
    main()
