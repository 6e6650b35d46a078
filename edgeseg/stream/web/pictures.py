"""A frame and its mask as the page takes them: one body that holds both, so that they can never belong to two
frames.
"""

from __future__ import annotations

import struct

from edgeseg.images import opencv, resize_mask, shrink_image, squared_hw
from edgeseg.results import Result
from edgeseg.text import json_text

WIDTH_PX = 960
"""Frames wider than this are shrunk for the page."""
_JPEG_QUALITY = 80


def encode(sequence: int, result: Result) -> bytes:
    """The body of one answer: header length (uint32, little endian), header (JSON), picture (JPEG), mask
    (PNG).

    The PNG is 8 bit grey, and grey is the class index: a browser colours it by the palette, so classes and
    opacity are switched there, without asking again.

    Args:
        sequence: what the page asks with for the next picture.
    """
    cv2 = opencv()
    frame, mask, record = result.frame, result.mask, result.to_json()
    image_rgb = frame.image_rgb
    height, width = image_rgb.shape[:2]
    # In square pixels: a browser knows no others.
    shown_h, shown_w = squared_hw((height, width), frame.pixel_aspect)
    size_hw = (
        (max(1, round(shown_h * WIDTH_PX / shown_w)), WIDTH_PX) if shown_w > WIDTH_PX else (shown_h, shown_w)
    )
    if size_hw != (height, width):
        image_rgb, mask = shrink_image(image_rgb, size_hw), resize_mask(mask, size_hw)
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    header = {
        "sequence": sequence,
        "index": frame.index,
        "pts_s": record["pts_s"],
        "source": frame.source_id,
        "size_hw": [height, width],
        "class_share": record["class_share"],
        "regions": record.get("regions"),
        "age_ms": record["age_ms"],
        "latency_ms": record["latency_ms"],
        "level": record["level"],
        "jpeg_bytes": len(jpeg),
        "png_bytes": len(png),
    }
    head = json_text(header).encode()
    return b"".join((struct.pack("<I", len(head)), head, jpeg, png))
