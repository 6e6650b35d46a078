"""THE resize, overlay, contact sheet and image reading. Training, evaluation, engines and the stream all use
these, so they cannot differ.

It lies below them all for that reason. OpenCV does the work and is imported on first use: a recipe can be
checked without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseg.errors import DataError, require
from edgeseg.file_kinds import HEAD_BYTES, kind_of_bytes
from edgeseg.specs import ImageU8, LabelSpace, MaskU8


@cache
def opencv() -> Any:
    """The cv2 module. Raises MissingDependency where no OpenCV is installed."""
    return require("cv2", extra="video", purpose="read, resize and write images")


def resize_image(image_rgb: ImageU8, size_hw: tuple[int, int], out: ImageU8 | None = None) -> ImageU8:
    """Bilinear resize to (height, width); the same object where the size is right already. uint8 in, uint8
    out.

    `out`, of the new size, is written to and returned where there is something to resize.
    """
    if image_rgb.shape[:2] == tuple(size_hw):
        return image_rgb
    cv2 = opencv()
    resized: ImageU8 = cv2.resize(
        image_rgb, (size_hw[1], size_hw[0]), dst=out, interpolation=cv2.INTER_LINEAR
    )
    return resized


def resize_mask(mask: MaskU8, size_hw: tuple[int, int]) -> MaskU8:
    """Nearest resize of a class map to (height, width), pixel centres aligned; the same object where the size
    is right.
    """
    if mask.shape == tuple(size_hw):
        return mask
    cv2 = opencv()
    resized: MaskU8 = cv2.resize(mask, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized


def read_image(path: Path) -> ImageU8:
    """Read a picture as RGB, (H, W, 3) uint8, upright as its EXIF orientation says.

    Grayscale is repeated over three channels, alpha is dropped, 16 bit is scaled to 8.

    Raises:
        DataError: missing, unreadable or truncated file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", hint="check the path, or leave the file out of the data set"
        ) from error
    return decode_image(data, path)


def decode_image(data: bytes, path: Path) -> ImageU8:
    """The picture in a file's bytes, as `read_image` gives it; `path` is for the message."""
    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # more pixels than OpenCV takes
        image = None
    if image is None:
        kind = kind_of_bytes(data[:HEAD_BYTES], path)
        what = f" ({kind.name})" if kind else ""
        if kind and kind.name.endswith("picture") and not kind.cure:
            what = f" ({kind.name}, damaged or cut short)"
        cure = kind.cure if kind else ""
        raise DataError(
            f"{path}: not a readable image{what}",
            hint=cure or "replace the file, or leave it out of the data set",
        )
    rgb: ImageU8 = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb


def jpeg_facts(data: bytes) -> tuple[int, int]:
    """EXIF orientation, 1 to 8, and number of colour channels of a JPEG file's bytes; (1, 0) for anything
    else.
    """
    orientation, channels, place = 1, 0, 2
    if data[:2] != b"\xff\xd8":
        return orientation, channels
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[place + 10 : place + 2 + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            channels = data[place + 9]
            break
        place += 2 + max(length, 2)
    return orientation, channels


def _exif_orientation(tiff: bytes) -> int:
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    first = int.from_bytes(tiff[4:8], order)
    for entry in range(int.from_bytes(tiff[first : first + 2], order)):
        place = first + 2 + 12 * entry
        if int.from_bytes(tiff[place : place + 2], order) == 0x0112:
            value = int.from_bytes(tiff[place + 8 : place + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def colour_mask(mask: MaskU8, labels: LabelSpace) -> ImageU8:
    """Class map (H, W) -> its colours, (H, W, 3) uint8 RGB; values without a class are black."""
    # A table look-up in OpenCV: numpy's fancy indexing takes ten times as long.
    coloured: ImageU8 = opencv().applyColorMap(mask, labels.palette()[:, None])
    return coloured


def overlay(image_rgb: ImageU8, mask: MaskU8, labels: LabelSpace, opacity: float = 0.5) -> ImageU8:
    """Blend class colours over an image of the same size.

    Args:
        image_rgb: (H, W, 3) uint8.
        mask: (H, W) uint8; pixels without a class show the image unchanged.
        opacity: share of the colour, 0..1.
    Returns:
        (H, W, 3) uint8 RGB, a fresh array.
    """
    cv2 = opencv()
    blended: ImageU8 = cv2.addWeighted(image_rgb, 1.0 - opacity, colour_mask(mask, labels), opacity, 0.0)
    unlabelled = mask >= labels.num_classes
    if unlabelled.any():
        blended[unlabelled] = image_rgb[unlabelled]
    return blended


def legend(labels: LabelSpace, width_px: int, classes: Sequence[int] | None = None) -> ImageU8:
    """A strip that names classes beside their colours, as many lines as it needs.

    Args:
        width_px: width of the strip, from 1 up.
        classes: indices of the classes shown; all of them where None.
    Returns:
        (H, width_px, 3) uint8 RGB, dark text on white; characters that OpenCV's font lacks are drawn as "?".
    """
    cv2 = opencv()
    shown = range(labels.num_classes) if classes is None else classes
    names = [labels.names[index] for index in shown]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    # Columns as wide as the longest name and its swatch, lines of 20 px.
    widths = [cv2.getTextSize(name, font, scale, 1)[0][0] for name in names]
    cell_px = min(width_px, 34 + max(widths, default=0))
    columns = max(1, width_px // cell_px)
    strip = np.full((20 * -(-len(names) // columns) + 8, width_px, 3), 255, np.uint8)
    for place, (index, name) in enumerate(zip(shown, names, strict=True)):
        x, y = place % columns * cell_px + 8, place // columns * 20 + 4
        cv2.rectangle(strip, (x, y + 3), (x + 14, y + 16), labels.palette_rgb[index], cv2.FILLED)
        cv2.rectangle(strip, (x, y + 3), (x + 14, y + 16), (128, 128, 128))
        cv2.putText(strip, name, (x + 20, y + 15), font, scale, (30, 30, 30), 1, cv2.LINE_AA)
    return strip


def contact_sheet(
    frames: Sequence[ImageU8],
    masks: Sequence[MaskU8],
    labels: LabelSpace,
    columns: int = 4,
    tile_px: int = 320,
    opacity: float = 0.5,
) -> ImageU8:
    """Overlays side by side, row by row, above a legend of the classes that occur in them.

    Args:
        frames: at least one picture, each (H, W, 3) uint8 RGB, of any size.
        masks: a class map (H, W) uint8 for each, of its picture's size.
        columns: tiles a row.
        tile_px: width of a tile; its height follows the first picture, and others are fitted in with their
            aspect ratio.
        opacity: share of the class colour, 0..1.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ValueError: no frames, or another number of masks.
    """
    if not frames or len(frames) != len(masks):
        raise ValueError(
            f"a contact sheet needs as many masks as frames, at least one, not {len(masks)} and {len(frames)}"
        )
    gap_px = 4
    columns = min(columns, len(frames))
    tile_h = max(1, round(tile_px * frames[0].shape[0] / frames[0].shape[1]))
    rows = -(-len(frames) // columns)
    sheet = np.full(
        (rows * (tile_h + gap_px) - gap_px, columns * (tile_px + gap_px) - gap_px, 3), 255, np.uint8
    )
    for place, (image_rgb, mask) in enumerate(zip(frames, masks, strict=True)):
        height, width = image_rgb.shape[:2]
        scale = min(tile_h / height, tile_px / width)
        size_hw = max(1, round(height * scale)), max(1, round(width * scale))
        top = place // columns * (tile_h + gap_px) + (tile_h - size_hw[0]) // 2
        left = place % columns * (tile_px + gap_px) + (tile_px - size_hw[1]) // 2
        blended = overlay(image_rgb, mask, labels, opacity)
        sheet[top : top + size_hw[0], left : left + size_hw[1]] = shrink_image(blended, size_hw)
    present = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    strip = legend(labels, sheet.shape[1], [int(index) for index in present if index < labels.num_classes])
    return np.concatenate([sheet, strip])


def shrink_image(image_rgb: ImageU8, size_hw: tuple[int, int]) -> ImageU8:
    """Resize for the eye, to (height, width): averages where it shrinks, so that thin things do not break up.
    A fresh array.
    """
    cv2 = opencv()
    resized: ImageU8 = cv2.resize(image_rgb, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_AREA)
    return resized


def squared_hw(size_hw: tuple[int, int], pixel_aspect: float) -> tuple[int, int]:
    """Height and width that a picture has in square pixels, for pixels `pixel_aspect` times as wide as high:
    none is lost.
    """
    height, width = size_hw
    return max(height, round(height / pixel_aspect)), max(width, round(width * pixel_aspect))


def square_pixels(image_rgb: ImageU8, pixel_aspect: float) -> ImageU8:
    """A picture in square pixels, where its own are `pixel_aspect` times as wide as high; the same object
    where it is 1.
    """
    return resize_image(image_rgb, squared_hw((image_rgb.shape[0], image_rgb.shape[1]), pixel_aspect))


def encode_png(image_rgb: ImageU8) -> bytes:
    """An RGB image (H, W, 3) uint8 as the bytes of a PNG file."""
    cv2 = opencv()
    encoded: np.ndarray = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))[1]
    return encoded.tobytes()
