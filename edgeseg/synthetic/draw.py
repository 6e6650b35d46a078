"""What a synthetic street is drawn with: lens, canvas, and the things that stand and move in it (see
`synthetic`).

Metres: x to the right of the road's middle, y up, z ahead of the camera. Every shape goes into image and mask
    by the same calls,
so the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg.images import opencv
from edgeseg.recipe.labels import label_space
from edgeseg.specs import ImageU8, MaskU8

LABELS = label_space("synthetic")
ROAD, LANE, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PERSON, POLE, SIGN = range(LABELS.num_classes)

Floats = npt.NDArray[np.float64]
Colour = tuple[float, float, float]
_Along = float | Sequence[float]

NEAR_M, FAR_M = 1.2, 130.0
_GROUND_Z = np.geomspace(NEAR_M, FAR_M, 16)
_SHIFT = 4
"""Fractional bits of the pixel coordinates that OpenCV draws at."""
_PX_LIMIT = 20000
"""Coordinates farther out are clamped, because OpenCV's fixed point would overflow; nothing beyond
`_CLAMP_BELOW_M` is.
"""
_CLAMP_BELOW_M = 5.0
_PLAIN_BEYOND_M = 45.0
"""Farther things are drawn without the details that would be smaller than a pixel."""

_WALLS = (
    (176, 110, 88),
    (200, 182, 150),
    (150, 150, 156),
    (214, 206, 194),
    (128, 92, 76),
    (168, 178, 182),
    (196, 158, 106),
)
PAINTS = (
    (196, 34, 38),
    (30, 62, 140),
    (232, 232, 234),
    (36, 36, 40),
    (150, 154, 160),
    (28, 98, 80),
    (222, 176, 40),
)
_CLOTHES = (
    (190, 48, 48),
    (52, 76, 156),
    (60, 60, 66),
    (216, 206, 190),
    (64, 124, 84),
    (214, 150, 48),
    (126, 70, 130),
)
_SKINS = ((234, 192, 160), (198, 146, 110), (140, 94, 66))
_SIGNS = ((206, 32, 36), (36, 84, 180), (236, 196, 44))
_GLASS: Colour = (44, 52, 64)
_LIT: Colour = (255, 226, 150)


class Weather(NamedTuple):
    """Sky colours, gain of all other colours, metres of sight, share of lit windows."""

    zenith: Colour
    horizon: Colour
    gain: Colour
    sight_m: float
    lit: float


class Lens(NamedTuple):
    """A pinhole over a road that bends away by `bend` * z^2 / 2 metres to the right."""

    focal_px: float
    middle_px: float
    horizon_px: int
    height_m: float
    right_m: float
    bend: float

    def project(self, points: npt.ArrayLike) -> Floats:
        """(..., 3) metres to (..., 2) pixels (x, y). What lies nearer than the near plane is put on it."""
        x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        scale = self.focal_px / np.maximum(z, NEAR_M)
        across = x - self.right_m + 0.5 * self.bend * z * z
        return np.stack(
            [self.middle_px + across * scale, self.horizon_px + (self.height_m - y) * scale], axis=-1
        )


class Canvas:
    """Image and mask of one frame, drawn together. Shapes in metres; a label of None colours the image alone
    (shadows).
    """

    def __init__(self, size_hw: tuple[int, int], lens: Lens, weather: Weather) -> None:
        self.image: ImageU8 = np.zeros((*size_hw, 3), np.uint8)
        self.mask: MaskU8 = np.full(size_hw, SKY, np.uint8)
        self.lens = lens
        self.weather = weather

    def shade(self, colour: Colour, z: float, light: float = 1.0) -> Colour:
        """A colour under the scene's light, seen through z metres of haze."""
        clear = math.exp(-max(z, 0.0) / self.weather.sight_m)
        (r, g, b), (gain_r, gain_g, gain_b), (haze_r, haze_g, haze_b) = (
            colour,
            self.weather.gain,
            self.weather.horizon,
        )
        return (
            min(255.0, r * light * gain_r) * clear + haze_r * (1.0 - clear),
            min(255.0, g * light * gain_g) * clear + haze_g * (1.0 - clear),
            min(255.0, b * light * gain_b) * clear + haze_b * (1.0 - clear),
        )

    def fill(self, outlines: Iterable[Floats], colour: Colour, label: int | None) -> None:
        """Fill outlines (n, 2), pixels, in a colour that is final."""
        cv2 = opencv()
        fixed = [
            np.round(np.clip(outline, -_PX_LIMIT, _PX_LIMIT) * (1 << _SHIFT)).astype(np.int32)
            for outline in outlines
        ]
        cv2.fillPoly(self.image, fixed, colour, cv2.LINE_8, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.mask, fixed, label, cv2.LINE_8, _SHIFT)

    def strip(self, x0: float, x1: float, colour: Colour, label: int) -> None:
        """A band of the ground along the road, as far as one sees; haze comes later."""
        edges = [corners_of(x, 0.0, z) for x, z in ((x0, _GROUND_Z), (x1, _GROUND_Z[::-1]))]
        self.fill([self.lens.project(np.concatenate(edges))], colour, label)

    def quads(self, corners: Floats, colour: Colour, label: int) -> None:
        """Polygons (k, n, 3), metres, in one colour that is final; those wholly behind the near plane are
        left out.
        """
        seen = corners[(corners[..., 2] > NEAR_M).any(axis=1)]
        if len(seen):
            self.fill(self.lens.project(seen), colour, label)

    def polygon(
        self, x: _Along, y: _Along, z: _Along, colour: Colour, label: int | None, light: float = 1.0
    ) -> None:
        """One polygon, shaded for its nearest corner; a single number holds for all corners.

        In plain Python: a frame has hundreds of these, and on four points numpy costs ten times the
        arithmetic.
        """
        count = next(len(values) for values in (x, y, z) if not isinstance(values, float))
        xs, ys, zs = ([values] * count if isinstance(values, float) else values for values in (x, y, z))
        near_m = min(zs)
        fixed = np.array([[self._fixed(*corner) for corner in zip(xs, ys, zs, strict=True)]], np.int32)
        if near_m < _CLAMP_BELOW_M:
            np.clip(fixed, -_PX_LIMIT << _SHIFT, _PX_LIMIT << _SHIFT, out=fixed)
        cv2 = opencv()
        cv2.fillPoly(self.image, fixed, self.shade(colour, near_m, light), cv2.LINE_8, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.mask, fixed, label, cv2.LINE_8, _SHIFT)

    def disc(
        self, x: float, y: float, z: float, radius_m: float, colour: Colour, label: int, light: float = 1.0
    ) -> None:
        cv2, centre = opencv(), self._fixed(x, y, z)
        radius = round(max(0.5, radius_m * self.lens.focal_px / z) * (1 << _SHIFT))
        if max(abs(centre[0]), abs(centre[1]), radius) < _PX_LIMIT << _SHIFT:
            cv2.circle(self.image, centre, radius, self.shade(colour, z, light), -1, cv2.LINE_8, _SHIFT)
            cv2.circle(self.mask, centre, radius, label, -1, cv2.LINE_8, _SHIFT)

    def _fixed(self, x: float, y: float, z: float) -> tuple[int, int]:
        """Lens.project for one point, in OpenCV's fixed-point pixels."""
        lens = self.lens
        scale = lens.focal_px / (z if z > NEAR_M else NEAR_M) * (1 << _SHIFT)
        across = x - lens.right_m + 0.5 * lens.bend * z * z
        return (
            int(lens.middle_px * (1 << _SHIFT) + across * scale),
            int(lens.horizon_px * (1 << _SHIFT) + (lens.height_m - y) * scale),
        )


def corners_of(x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike) -> Floats:
    """Points (..., 3) of coordinates that broadcast."""
    return np.stack(
        np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float), np.asarray(z, float)), axis=-1
    )


def draw_building(canvas: Canvas, side: float, x: float, near_m: float, far_m: float, r: list[float]) -> None:
    """Front to the road (a wall along z) and the gable that faces the camera, with windows by floors."""
    floors = 2 + int(7 * r[9] ** 2)
    height, wall = 3.1 * floors + 0.8, _WALLS[int(r[10] * len(_WALLS))]
    z0, x0, x1 = max(near_m, NEAR_M), side * x, side * (x + 9.0)
    if near_m > NEAR_M:
        canvas.polygon([x0, x1, x1, x0], [0, 0, height, height], near_m, wall, BUILDING, 0.72)
    canvas.polygon(x0, [0, 0, height, height], [z0, far_m, far_m, z0], wall, BUILDING, 1.0)
    canvas.polygon(
        x0, [height - 0.5, height - 0.5, height, height], [z0, far_m, far_m, z0], wall, BUILDING, 0.6
    )
    canvas.polygon(x0, [0, 0, 2.7, 2.7], [z0, far_m, far_m, z0], wall, BUILDING, 0.8)
    if near_m > 1.5 * _PLAIN_BEYOND_M:
        return
    sill = 3.6 + 3.1 * np.arange(floors - 1)[:, None, None]
    y = (sill + np.array([0.0, 0.0, 1.6, 1.6])).repeat(3, axis=1)
    along = np.linspace(near_m + 0.9, far_m - 2.3, 3)[None, :, None] + np.array([0.0, 1.4, 1.4, 0.0])
    across = np.linspace(x + 0.9, x + 6.7, 3)[None, :, None] + np.array([0.0, 1.4, 1.4, 0.0])
    front = corners_of(x0, y, along).reshape(-1, 4, 3)
    gable = corners_of(side * across, y, near_m).reshape(-1, 4, 3)
    lit = np.resize(np.modf(np.array(r) * 37.0)[0], len(front)) < canvas.weather.lit
    for windows in (front[front[..., 2].min(axis=1) > NEAR_M], gable):
        canvas.quads(windows, canvas.shade(_GLASS, near_m), BUILDING)
    glow = canvas.shade(_LIT, near_m, 1.0 / max(canvas.weather.gain))
    canvas.quads(front[lit & (front[..., 2].min(axis=1) > NEAR_M)], glow, BUILDING)
    shop = corners_of(
        x0, [0.3, 0.3, 2.3, 2.3], np.linspace(near_m + 0.8, far_m - 4.4, 3)[:, None] + [0.0, 3.2, 3.2, 0.0]
    )
    colour = _LIT if canvas.weather.lit > 0.3 and r[11] < 0.6 else (70, 82, 92)
    canvas.quads(shop[shop[..., 2].min(axis=1) > NEAR_M], canvas.shade(colour, near_m), BUILDING)


def draw_tree(canvas: Canvas, x: float, z: float, size: float, number: int) -> None:
    canvas.polygon(
        [x - 0.13, x + 0.13, x + 0.09, x - 0.09], [0, 0, 3 * size, 3 * size], z, (86, 68, 50), VEGETATION
    )
    hue = 14.0 * ((number * 7) % 5) - 20.0
    for dx, dy, radius, light in _CROWN if z < _PLAIN_BEYOND_M else _CROWN[:5]:
        place = (x + dx * size, (3.2 + dy) * size, z)
        canvas.disc(*place, radius * size, (84 + hue, 126 + 0.4 * hue, 58), VEGETATION, light)


_CROWN = (
    (0.0, 0.1, 1.35, 0.62),
    (-0.8, -0.2, 0.85, 0.7),
    (0.85, -0.15, 0.85, 0.74),
    (-0.35, 0.75, 0.95, 0.86),
    (0.5, 0.6, 0.85, 0.95),
    (0.1, 0.05, 0.6, 1.02),
    (-0.7, 0.25, 0.4, 1.08),
    (0.3, 0.95, 0.42, 1.16),
)
"""Discs of a tree's crown: offset to the right and up, radius, light; in units of the tree's size."""


def draw_lamp(canvas: Canvas, side: float, x: float, z: float) -> None:
    arm = x - side * 1.7
    canvas.polygon([x - 0.08, x + 0.08, x + 0.06, x - 0.06], [0, 0, 6.2, 6.2], z, (92, 96, 100), POLE)
    canvas.polygon([x, arm, arm, x], [6.1, 6.3, 6.38, 6.22], z, (92, 96, 100), POLE)
    glow = _LIT if canvas.weather.lit > 0.3 else (176, 178, 180)
    canvas.polygon([arm - 0.3, arm + 0.3, arm + 0.2, arm - 0.2], [6.2, 6.2, 6.42, 6.42], z, glow, POLE)


def draw_sign(canvas: Canvas, x: float, z: float, kind: int) -> None:
    canvas.polygon([x - 0.05, x + 0.05, x + 0.05, x - 0.05], [0, 0, 2.3, 2.3], z, (138, 140, 142), POLE)
    if kind == 2:
        canvas.polygon([x - 0.45, x + 0.45, x], [2.1, 2.1, 2.9], z, _SIGNS[kind], SIGN)
    else:
        canvas.disc(x, 2.5, z, 0.42, _SIGNS[kind], SIGN)
        canvas.disc(x, 2.5, z, 0.27, (236, 236, 236), SIGN)


def draw_car(canvas: Canvas, x: float, z: float, number: int, from_behind: bool) -> None:
    """A car whose near end is at z, seen from behind or from ahead; beside the camera only its flank is
    left.
    """
    paint, half, length = PAINTS[number], 0.88, 4.2
    canvas.polygon(
        [x - 1, x + 1, x + 1, x - 1], 0.0, [z - 0.1, z - 0.1, z + length, z + length], (34, 34, 38), None
    )
    away = x - canvas.lens.right_m
    plain = z > _PLAIN_BEYOND_M
    if abs(away) > half:
        edge, inward = (x - half, 0.24) if away > 0 else (x + half, -0.24)
        top = edge + inward
        canvas.polygon(edge, [0.25, 0.25, 0.9, 0.9], [z, z + length, z + length, z], paint, CAR, 0.78)
        cabin = [edge, edge, top, top]
        canvas.polygon(
            cabin, [0.88, 0.88, 1.46, 1.46], [z + 0.05, z + 3.2, z + 2.5, z + 0.4], paint, CAR, 0.7
        )
        canvas.polygon(cabin, [0.94, 0.94, 1.37, 1.37], [z + 0.4, z + 2.9, z + 2.4, z + 0.65], _GLASS, CAR)
        for axle in () if plain else (z + 0.85, z + 3.3):
            canvas.polygon(
                edge, [0.32 + dy for dy, _ in _WHEEL], [axle + dz for _, dz in _WHEEL], (26, 26, 28), CAR
            )
    if z <= NEAR_M:
        return
    for left in (x - half, x + half - 0.26):
        canvas.polygon([left, left + 0.26, left + 0.26, left], [0, 0, 0.35, 0.35], z, (24, 24, 26), CAR)
    canvas.polygon([x - half, x + half, x + half, x - half], [0.26, 0.26, 0.9, 0.9], z, paint, CAR, 0.95)
    slant = [z + 0.05, z + 0.05, z + 0.4, z + 0.4]
    canvas.polygon(
        [x - half, x + half, x + 0.64, x - 0.64], [0.88, 0.88, 1.46, 1.46], slant, paint, CAR, 0.85
    )
    canvas.polygon([x - 0.74, x + 0.74, x + 0.58, x - 0.58], [0.94, 0.94, 1.37, 1.37], slant, _GLASS, CAR)
    if plain:
        return
    canvas.polygon([x - half, x + half, x + half, x - half], [0.26, 0.26, 0.4, 0.4], z, (40, 40, 44), CAR)
    lights = (214, 24, 24) if from_behind else (250, 246, 224)
    for left in (x - 0.82, x + 0.56):
        canvas.polygon([left, left + 0.26, left + 0.26, left], [0.64, 0.64, 0.8, 0.8], z, lights, CAR, 1.2)
    canvas.polygon(
        [x - 0.24, x + 0.24, x + 0.24, x - 0.24], [0.46, 0.46, 0.58, 0.58], z, (228, 228, 222), CAR
    )


_WHEEL = [(0.32 * math.sin(math.pi * k / 5), 0.32 * math.cos(math.pi * k / 5)) for k in range(10)]


def draw_person(canvas: Canvas, x: float, z: float, tall: float, phase: float, top: int, bottom: int) -> None:
    stride = 0.17 * math.sin(phase)
    cloth, trousers, skin = (
        _CLOTHES[top % len(_CLOTHES)],
        _CLOTHES[bottom % len(_CLOTHES)],
        _SKINS[(top + bottom) % len(_SKINS)],
    )
    canvas.polygon(
        [x - 0.3, x + 0.3, x + 0.3, x - 0.3], 0.0, [z - 0.15, z - 0.15, z + 0.2, z + 0.2], (52, 52, 54), None
    )
    for foot, light in ((x - 0.09 - stride, 0.6), (x + 0.09 + stride, 0.72)):
        hip = 0.5 * (x + foot)
        canvas.polygon(
            [foot - 0.07, foot + 0.07, hip + 0.1, hip - 0.1],
            [0, 0, 0.5 * tall, 0.5 * tall],
            z,
            trousers,
            PERSON,
            light,
        )
    y = [share * tall for share in (0.46, 0.46, 0.72, 0.83, 0.83, 0.72)]
    canvas.polygon([x - 0.17, x + 0.17, x + 0.24, x + 0.19, x - 0.19, x - 0.24], y, z, cloth, PERSON)
    for shoulder, hand in (
        () if z > _PLAIN_BEYOND_M else ((x - 0.21, x - 0.27 + stride), (x + 0.21, x + 0.27 + stride))
    ):
        y = [0.8 * tall, 0.8 * tall, 0.48 * tall, 0.48 * tall]
        canvas.polygon(
            [shoulder - 0.06, shoulder + 0.06, hand + 0.05, hand - 0.05], y, z, cloth, PERSON, 0.85
        )
    canvas.disc(x, 0.925 * tall, z, 0.12, (56, 42, 34), PERSON)
    canvas.disc(x, 0.905 * tall, z, 0.105, skin, PERSON)
