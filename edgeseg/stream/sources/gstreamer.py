"""Sources by GStreamer: `gst:PIPELINE` for whatever it can read, `csi://0` for the cameras on a Jetson's
ribbon cable.

The pipeline runs in a child process, `gst-launch-1.0`, which writes each picture with its size in front (PPM)
into a pipe. So it works with any Python and any OpenCV (the wheels from the package index have no GStreamer,
and a virtual environment hides the system's), a size that changes on the way is no matter, and a pipeline
that hangs is killed. Where the command is missing, an OpenCV that was built with GStreamer does.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from edgeseg.contracts import LiveSource
from edgeseg.errors import StreamError, Unsupported
from edgeseg.images import opencv
from edgeseg.specs import Frame, ImageU8
from edgeseg.stream.sources.network import parse_size
from edgeseg.stream.uris import number, redact, scrub, split_options

_TIMEOUT_S = 10.0
_KILL_S = 1.0
_MOST_HEADER_BYTES = 64
_PIPE_BYTES = 1 << 20
_HINT = "try it alone: gst-launch-1.0 -v PIPELINE ! fakesink; elements are listed by gst-inspect-1.0"


class Pipeline(LiveSource):
    """A GStreamer pipeline that ends in raw video: `gst:videotestsrc is-live=true !
    video/x-raw,width=640,height=480`.

    Frames have no presentation time of their own: they count from the first one's arrival.
    """

    is_live = True

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or redact(uri)
        self.fps = 0.0
        self.frame_count: int | None = None
        self._uri, self._name = uri, name
        # Users bring pipelines written for OpenCV, which end in an appsink.
        self._elements = (
            re.sub(r"!\s*appsink\b[^!]*$", "", uri.removeprefix("gst:")).strip().rstrip("!").strip()
        )
        if not self._elements:
            raise StreamError("gst: needs a pipeline", hint="for example gst:videotestsrc is-live=true")
        self._reader: _Child | _OpenCV | None = None

    def fresh(self) -> Pipeline:
        return type(self)(self._uri, self._name)

    def open(self) -> None:
        if shutil.which("gst-launch-1.0"):
            self._reader = _Child(self._elements)
        elif _opencv_has_gstreamer():
            self._reader = _OpenCV(self._elements)
        else:
            raise Unsupported(
                f"{self.source_id}: there is no GStreamer on this machine, neither gst-launch-1.0 nor in"
                " OpenCV",
                hint="sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad",
            )

    def frames(self) -> Iterator[Frame]:
        if self._reader is None:
            raise RuntimeError("the source is not open")
        start_s, index = time.monotonic(), 0
        while True:
            image_rgb = self._reader.read()
            if image_rgb is None:
                return
            now_s = time.monotonic()
            yield Frame(image_rgb, index, now_s - start_s, now_s, self.source_id)
            index += 1

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class CsiCamera(Pipeline):
    """A camera on the ribbon cable of a Jetson, through its image processor:
    `csi://0#size=1920x1080&fps=30`.
    """

    def __init__(self, uri: str, name: str | None = None) -> None:
        address, options = split_options(uri, {"size", "fps"})
        sensor = address.removeprefix("csi://")
        if not sensor.isdecimal():
            raise StreamError(
                f"{redact(uri)}: not a CSI camera", hint="write csi://0, or csi://0#size=1920x1080&fps=30"
            )
        height, width = parse_size(uri, options.get("size", "1920x1080"))
        fps = int(number(uri, options, "fps", 30, 1, 240))
        super().__init__(
            f"gst:nvarguscamerasrc sensor-id={sensor} !"
            f" video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! nvvidconv !"
            " video/x-raw,format=BGRx",
            name or redact(uri),
        )
        self._stated_fps = float(fps)
        self._csi = (uri, name)

    def fresh(self) -> CsiCamera:
        return CsiCamera(*self._csi)

    def open(self) -> None:
        inspect = shutil.which("gst-inspect-1.0")
        if (
            inspect
            and subprocess.run(
                [inspect, "--exists", "nvarguscamerasrc"], timeout=_TIMEOUT_S, check=False
            ).returncode
        ):
            raise Unsupported(
                f"{self.source_id}: GStreamer has no nvarguscamerasrc here; CSI cameras are read on a Jetson"
                " only",
                hint=(
                    "on the Jetson: sudo apt install nvidia-l4t-gstreamer; other cameras: --source"
                    " /dev/video0"
                ),
            )
        super().open()
        self.fps = self._stated_fps


class _Child:
    """gst-launch-1.0 with its pictures on a pipe."""

    def __init__(self, elements: str) -> None:
        self._read_fd, write_fd = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        sink = f"videoconvert ! video/x-raw,format=RGB ! pnmenc ! fdsink fd={write_fd} sync=false"
        try:
            self._process = subprocess.Popen(
                ["gst-launch-1.0", "-q", *_words(elements), "!", *shlex.split(sink)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[write_fd],
                start_new_session=True,  # Ctrl-C is for us, who then end it
            )
        except BaseException:
            os.close(self._read_fd)
            self._errors.close()
            raise
        finally:
            os.close(write_fd)

    def read(self) -> ImageU8 | None:
        """The next picture; None at the end of the stream. Raises StreamError where the pipeline fails, or
        gives none in time.
        """
        header = self._header()
        if header is None:
            if self._process.wait(_KILL_S) != 0:
                raise StreamError(f"the pipeline failed: {self._said()}", hint=_HINT)
            return None
        height, width = header
        image_rgb = np.empty((height, width, 3), np.uint8)
        self._fill(image_rgb.reshape(-1).data)
        return image_rgb

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read_fd)
        self._errors.close()

    def _header(self) -> tuple[int, int] | None:
        """Height and width: "P6\\n", a comment perhaps, "640 480\\n255\\n"."""
        fields: list[bytes] = []
        line = bytearray()
        for _ in range(_MOST_HEADER_BYTES * 4):
            byte = bytearray(1)
            if not self._fill(memoryview(byte), may_end=not line and not fields):
                return None
            if byte != b"\n":
                line += byte
                continue
            fields += [] if line.startswith(b"#") else bytes(line).split()
            line.clear()
            if len(fields) == 4 and fields[0] == b"P6" and fields[3] == b"255":
                return int(fields[2]), int(fields[1])
        raise StreamError("the pipeline does not end in raw video", hint=_HINT)

    def _fill(self, buffer: memoryview, may_end: bool = False) -> bool:
        """Read a whole buffer. False at the end of the stream, where that is allowed."""
        position = 0
        while position < len(buffer):
            ready, _, _ = select.select([self._read_fd], [], [], _TIMEOUT_S)
            if not ready:
                raise StreamError(f"the pipeline gave no picture for {_TIMEOUT_S:g} s", hint=_HINT)
            count = os.readv(self._read_fd, [buffer[position:]])
            if count == 0:
                if may_end and position == 0:
                    return False
                raise StreamError(f"the pipeline broke off within a picture: {self._said()}", hint=_HINT)
            position += count
        return True

    def _said(self) -> str:
        """The first error that gst-launch wrote, without credentials."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        self._errors.seek(0)
        lines = self._errors.read(8192).decode(errors="replace").splitlines()
        told = (
            [line for line in lines if "ERROR" in line or "erroneous" in line] or lines or ["it said nothing"]
        )
        return scrub(told[0].strip())


class _OpenCV:
    """The same pipeline inside an OpenCV that was built with GStreamer, as JetPack's is."""

    def __init__(self, elements: str) -> None:
        cv2 = opencv()
        line = (
            f"{elements} ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
        )
        self._capture: Any = cv2.VideoCapture(line, cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            raise StreamError(f"{scrub(elements)}: OpenCV's GStreamer cannot start this pipeline", hint=_HINT)

    def read(self) -> ImageU8 | None:
        cv2 = opencv()
        good, image_bgr = self._capture.read()
        if not good:
            return None
        image_rgb: ImageU8 = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
        return image_rgb

    def close(self) -> None:
        self._capture.release()


@cache
def _opencv_has_gstreamer() -> bool:
    return re.search(r"GStreamer:\s*YES", opencv().getBuildInformation()) is not None


def _words(elements: str) -> list[str]:
    """The pipeline as gst-launch's arguments. Raises StreamError where a quote is not closed."""
    try:
        return shlex.split(elements)
    except ValueError as error:
        raise StreamError(f"{scrub(elements)}: {error}", hint="close the quotes of the pipeline") from None
