"""Street scenes with exact masks: seeded, fast, and moving, so that a video makes sense. Tests and demos need
no data then.

A scene is an endless street through which the camera drives in the right lane. It is drawn far to near by the
shapes of `draw`; what comes after them (haze, grain, a slight blur) moves no edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg.images import opencv
from edgeseg.specs import ImageU8, MaskU8
from edgeseg.synthetic.draw import (
    BUILDING,
    FAR_M,
    LABELS,
    LANE,
    NEAR_M,
    PAINTS,
    ROAD,
    SIDEWALK,
    VEGETATION,
    Canvas,
    Lens,
    Weather,
    corners_of,
    draw_building,
    draw_car,
    draw_lamp,
    draw_person,
    draw_sign,
    draw_tree,
)

__all__ = ["LABELS", "Scene"]

_LOT_M = 13.0

_WEATHERS = (
    Weather((72, 128, 205), (196, 216, 234), (1.06, 1.03, 0.98), 260.0, 0.05),  # clear
    Weather((138, 165, 196), (214, 220, 226), (0.95, 0.97, 1.00), 170.0, 0.1),  # hazy
    Weather((142, 148, 156), (190, 194, 198), (0.80, 0.83, 0.86), 130.0, 0.25),  # overcast
    Weather((168, 174, 178), (196, 199, 200), (0.78, 0.81, 0.83), 50.0, 0.35),  # fog
    Weather((86, 104, 158), (240, 176, 122), (0.94, 0.79, 0.69), 190.0, 0.45),  # low sun
    Weather((24, 30, 58), (78, 74, 98), (0.46, 0.48, 0.60), 130.0, 0.65),  # dusk
)


class _Thing(NamedTuple):
    """Something to draw: how far away it counts in the painter's order, in metres, and how to draw it."""

    far_m: float
    draw: Callable[..., None]
    arguments: tuple[Any, ...]


class Scene:
    """One street, its traffic and its weather.

    Args:
        seed: 0 or more; picks all of it.
        size_hw: height and width of the frames, 32 px or more each.
    Raises:
        ValueError: a smaller side, or a negative seed.
    """

    def __init__(self, seed: int, size_hw: tuple[int, int]) -> None:
        if min(size_hw) < 32 or seed < 0:
            raise ValueError(
                f"a scene needs sides of 32 px or more and a seed of 0 or more, not {size_hw} and {seed}"
            )
        rng = np.random.default_rng((seed, 0))
        self.seed = seed
        self.size_hw = size_hw
        self._weather = _WEATHERS[int(rng.integers(len(_WEATHERS)))]
        self._exposure = rng.uniform(0.85, 1.12)
        self._road_m = rng.uniform(4.8, 6.6)
        self._walk_m = rng.uniform(2.0, 3.4)
        self._lens = Lens(
            focal_px=0.9 * max(size_hw),
            middle_px=size_hw[1] / 2,
            horizon_px=round(size_hw[0] * rng.uniform(0.38, 0.48)),
            height_m=rng.uniform(1.35, 1.9),
            right_m=0.32 * self._road_m,
            bend=rng.uniform(-0.0012, 0.0012),
        )
        self._speed = rng.uniform(6.0, 12.0)
        self._asphalt = rng.uniform(74, 108)
        self._cloudiness = rng.uniform(0.1, 0.8)
        self._density = rng.uniform(0.35, 1.0)
        self._cars, self._people, self._skyline = rng.random((5, 3)), rng.random((7, 5)), rng.random(24)
        self._lined, self._wooded = rng.random(2) < 0.5
        self._origin = int(rng.integers(0, 1 << 16))

    def frame(self, index: int, fps: float = 30.0) -> tuple[ImageU8, MaskU8]:
        """The frame at time index / fps. The same arguments give the same frame, whatever was asked before.

        Args:
            index: 0 or more.
            fps: frames per second of the video that the frame belongs to.
        Returns:
            (H, W, 3) uint8 RGB, and (H, W) uint8 with a class of LABELS for every pixel; fresh arrays.
        """
        time_s = index / fps
        driven_m = self._speed * time_s
        canvas = Canvas(self.size_hw, self._lens, self._weather)
        self._draw_sky(canvas, time_s)
        self._draw_ground(canvas, driven_m)
        things = [*self._street(driven_m), *self._traffic(time_s)]
        for thing in sorted(things, key=lambda thing: -thing.far_m):
            if thing.far_m > NEAR_M:
                thing.draw(canvas, *thing.arguments)
        return self._expose(canvas.image, index), canvas.mask

    def _draw_sky(self, canvas: Canvas, time_s: float) -> None:
        """Gradient, drifting clouds, and a skyline that never comes nearer."""
        weather, horizon, width = self._weather, self._lens.horizon_px, self.size_hw[1]
        down = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
        sky = np.array(weather.zenith, np.float32) * (1 - down) + np.array(weather.horizon, np.float32) * down
        left = (self._origin + int(time_s * 0.02 * width)) % width
        veil = _clouds(horizon, width)[:, left : left + width, None] * np.float32(self._cloudiness)
        white = np.float32(0.3) * np.array(weather.horizon, np.float32) + np.float32(170) * np.array(
            weather.gain, np.float32
        )
        canvas.image[:horizon] = np.minimum(sky + (white - sky) * veil, 255)

        foot = horizon + canvas.lens.focal_px * canvas.lens.height_m / FAR_M + 1
        x = np.linspace(0, width, len(self._skyline) + 1)
        height = canvas.lens.focal_px * (0.01 + 0.05 * self._skyline)
        if self._wooded:
            x, top, colour, label = x[:-1] + x[1] / 2, foot - 0.5 * height, (84, 110, 76), VEGETATION
        else:
            x, top, colour, label = (
                np.repeat(x, 2)[1:-1],
                foot - np.repeat(height, 2),
                (128, 128, 136),
                BUILDING,
            )
        outline = np.stack([[0, 0, *x, width, width], [foot, top[0], *top, top[-1], foot]], axis=1)
        canvas.fill([outline], canvas.shade(colour, 0.7 * FAR_M), label)

    def _draw_ground(self, canvas: Canvas, driven_m: float) -> None:
        """Grass, sidewalks, road and markings, with a grain that moves under the camera, and haze row by
        row.
        """
        horizon, lens = self._lens.horizon_px, self._lens
        canvas.image[horizon:] = (96, 116, 62)
        canvas.mask[horizon:] = VEGETATION
        kerb, edge, a = self._road_m + 0.25, self._road_m + self._walk_m, self._asphalt
        canvas.strip(-edge, edge, (158, 152, 146), SIDEWALK)
        canvas.strip(-kerb, kerb, (186, 182, 176), SIDEWALK)
        canvas.strip(-self._road_m, self._road_m, (a, a, a + 4), ROAD)
        if self._lined:
            for x in (-self._road_m + 0.4, self._road_m - 0.4):
                canvas.strip(x - 0.08, x + 0.08, (222, 222, 216), LANE)
        dash = np.arange(-(driven_m % 9.0), 70.0, 9.0)[:, None] + [0.0, 0.0, 3.0, 3.0]
        canvas.quads(corners_of([-0.08, 0.08, 0.08, -0.08], [0.0] * 4, dash), (226, 226, 220), LANE)
        crossing = -(driven_m % 64.0) + 50.0
        left = np.arange(-self._road_m + 0.5, self._road_m - 0.7, 1.1)[:, None] + [0.0, 0.55, 0.55, 0.0]
        canvas.quads(
            corners_of(left, [0.0] * 4, crossing + np.array([0.0, 0.0, 3.2, 3.2])), (226, 226, 220), LANE
        )

        rows = np.arange(horizon, self.size_hw[0]) + 0.5 - horizon
        z = np.minimum(lens.focal_px * lens.height_m / rows, 400.0)
        across = (
            (np.arange(self.size_hw[1]) + 0.5 - lens.middle_px)[None] * (z / lens.focal_px)[:, None] * 24.0
        )
        along = np.broadcast_to((z + driven_m)[:, None] * 24.0, across.shape)
        grain = _grain()[along.astype(np.int32) & 255, across.astype(np.int32) & 255]
        clear = np.exp(-z / self._weather.sight_m)[:, None, None].astype(np.float32)
        rough = (grain * (0.2 / (1 + 0.06 * z))[:, None].astype(np.float32) + 1)[..., None] * np.array(
            self._weather.gain, np.float32
        )
        ground = canvas.image[horizon:] * rough * clear + np.array(self._weather.horizon, np.float32) * (
            1 - clear
        )
        canvas.image[horizon:] = np.minimum(ground, 255)

    def _street(self, driven_m: float) -> Iterator[_Thing]:
        """What stands still, lot by lot on both sides; a lot depends on the seed and its number only."""
        first = int(driven_m // _LOT_M)
        kerb, inner = self._road_m + 0.55, self._road_m + self._walk_m
        for lot in range(first - 1, first + int(FAR_M / _LOT_M)):
            z = lot * _LOT_M - driven_m
            draws = np.random.default_rng((self.seed, 1, lot + 1)).random((2, 16))
            for side, r in zip((-1.0, 1.0), draws.tolist(), strict=True):
                far_m = z + _LOT_M
                if r[0] < 0.3 + 0.6 * self._density:
                    yield _Thing(
                        far_m, draw_building, (side, inner + 0.2 + 1.5 * r[1], z + 1.2 * r[2], far_m, r)
                    )
                else:
                    for at in (0.25, 0.75):
                        where = (side * (inner + 2.0 + 3.0 * r[1]), z + at * _LOT_M)
                        yield _Thing(where[1], draw_tree, (*where, 1.2 + 0.5 * r[2], lot))
                if r[3] < 0.45:
                    yield _Thing(z + 4.0, draw_tree, (side * (kerb + 0.4), z + 4.0, 0.7 + 0.4 * r[4], lot))
                if (lot + (side > 0)) % 2:
                    yield _Thing(z + 8.0, draw_lamp, (side, side * kerb, z + 8.0))
                if r[5] < 0.25:
                    yield _Thing(z + 10.5, draw_sign, (side * kerb, z + 10.5, int(r[6] * 3)))
                if r[7] < 0.5 * self._density:
                    yield _Thing(
                        z + 4.5,
                        draw_car,
                        (side * (self._road_m - 1.05), z + 2.0, int(r[8] * len(PAINTS)), side > 0),
                    )

    def _traffic(self, time_s: float) -> Iterator[_Thing]:
        """What moves: cars ahead and oncoming, people along the sidewalks and across the road."""
        for number, (r0, r1, r2) in enumerate(self._cars.tolist()):
            paint, lane = int(r2 * len(PAINTS)), 0.32 * self._road_m
            if number < 2:
                z = (9.0 + 26.0 * r0, 48.0 + 30.0 * r0)[number] + 3.5 * math.sin(0.4 * time_s + 6.0 * r1)
                yield _Thing(z + 2.0, draw_car, (lane, z, paint, True))
            elif r1 < 0.3 + self._density:
                z = (160.0 * r0 - (self._speed + 8.0 + 5.0 * r1) * time_s) % 150.0 - 12.0
                yield _Thing(z + 2.0, draw_car, (-lane, z, paint, False))
        for number, (r0, r1, r2, r3, r4) in enumerate(self._people.tolist()):
            pace = 0.9 + 0.7 * r1
            if number < 2:
                x = (14.0 * r0 + pace * time_s) % (2 * self._road_m + 8.0) - self._road_m - 4.0
                z = (64.0 * number + 51.5 + r2 - self._speed * time_s) % 128.0 - 4.0
            else:
                x = (self._road_m + 0.9 + (self._walk_m - 1.2) * r2) * (1.0 if number % 2 else -1.0)
                z = (90.0 * r0 + ((pace if r3 < 0.5 else -pace) - self._speed) * time_s) % 90.0 - 4.0
            yield _Thing(
                z,
                draw_person,
                (x, z, 1.55 + 0.3 * r4, pace * time_s * 3.6 + 6.0 * r0, int(7 * r3), int(7 * r1)),
            )

    def _expose(self, image: ImageU8, index: int) -> ImageU8:
        """Lens blur, grain that is new in every frame, exposure of the scene."""
        cv2 = opencv()
        blurred = cv2.GaussianBlur(image, (3, 3), 0.55)
        top, left = np.random.default_rng((self.seed, 2, index)).integers(0, 64, 2).tolist()
        height, width = self.size_hw
        noise = _sensor_noise(height + 64, width + 64)[top : top + height, left : left + width]
        out: ImageU8 = cv2.addWeighted(blurred, self._exposure, noise, 0.055, -0.055 * 128)
        return out


@lru_cache(maxsize=4)
def _clouds(height: int, width: int) -> npt.NDArray[np.float32]:
    """(height, 2 * width) opacities 0..1 that repeat after `width`."""
    cv2, rng = opencv(), np.random.default_rng(0)
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((4, 0.55), (9, 0.3), (20, 0.15)):
        coarse = rng.random((cells, cells), np.float32)
        padded = np.pad(coarse, ((0, 0), (2, 2)), mode="wrap")
        pad = round(2 * width / cells)
        smooth = cv2.resize(padded, (width + 2 * pad, height), interpolation=cv2.INTER_CUBIC)
        total += weight * smooth[:, pad : pad + width]
    opacity = np.clip((total - 0.42) * 3.2, 0, 1)
    return np.concatenate([opacity, opacity], axis=1)


@lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.float32]:
    """(256, 256) texture of the ground, about -1..1, that repeats."""
    rng = np.random.default_rng(1)
    fine = rng.uniform(-1, 1, (256, 256))
    coarse = opencv().resize(np.pad(rng.uniform(-1, 1, (16, 16)), 1, mode="wrap"), (288, 288))[16:272, 16:272]
    grain: npt.NDArray[np.float32] = (0.6 * fine + 0.4 * coarse).astype(np.float32)
    return grain


@lru_cache(maxsize=4)
def _sensor_noise(height: int, width: int) -> ImageU8:
    """(height, width, 3) around 128."""
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
