"""Regions of interest and what is too much in them: polygons, thresholds, and how users write both. See
`stream.alarms`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from edgeseg.errors import StreamError

REGION_HINT = (
    "write --region 'lane=0.1,0.6;0.9,0.6;0.9,1;0.1,1' in shares of width and height, "
    "'lane=10%,60%;90%,60%;50%,100%' or 'lane=192px,648px;1728px,648px;960px,1080px'"
)
THRESHOLD_HINT = (
    "write --threshold 'road blocked=lane:!road>35%/30%@2s' or 'busy=lane:car+bus>0.2', for one source"
    " 'gate:busy=lane:car>0.2'"
)
Unit = Literal["share", "px"]
Corner = tuple[float | str, float | str]
"""x and y as users write them: numbers, or texts that may say their unit."""

_MOST_SHARE = 10.0
_NAME = re.compile(r"[^\s=:;][^=:;]*")
_SIZE = re.compile(r"(.*)@(\d{1,5})x(\d{1,5})", re.DOTALL)
_NUMBER = r"\d+(?:\.\d+)?"
_THRESHOLD = re.compile(
    rf"(?P<name>[^=]*)=(?P<region>[^:]+):(?P<classes>[^<>]+)(?P<side>[<>])"
    rf"(?P<raise>{_NUMBER}%?)(?:/(?P<clear>{_NUMBER}%?))?(?:@(?P<for>{_NUMBER})s?)?"
)


@dataclass(frozen=True, slots=True)
class Region:
    """A polygon in the picture. Its sides may cross: a point is inside where a ray from it meets an odd
    number of sides.

    Attributes:
        name: how results call it; without "=", ":" and ";".
        points: three or more corners (x, y), from the picture's upper left corner. Those that lie beyond the
            picture are cut.
        unit: "share" of the frame's width and height, or "px", pixels of the source's first frame, which are
            scaled for frames of another size.
    Raises:
        StreamError: no such name, fewer corners, a number that is negative or not finite, or a polygon that
            holds nothing of any picture.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    unit: Unit = "share"

    def __post_init__(self) -> None:
        _check_name(self.name, "region", REGION_HINT)
        if self.unit not in get_args(Unit):
            raise StreamError(f"region {self.name}: {self.unit!r} is no unit", hint=REGION_HINT)
        if len(self.points) < 3:
            raise StreamError(
                f"region {self.name}: a polygon has three corners at least, not {len(self.points)}",
                hint=REGION_HINT,
            )
        if not all(math.isfinite(value) and value >= 0 for point in self.points for value in point):
            raise StreamError(
                f"region {self.name}: coordinates are finite numbers from 0 up", hint=REGION_HINT
            )
        (x0, y0), *others = self.points
        if all(
            (ax - x0) * (by - y0) == (bx - x0) * (ay - y0) for (ax, ay), (bx, by) in product(others, others)
        ):
            raise StreamError(f"region {self.name}: its corners lie on one line", hint=REGION_HINT)
        if not self.in_pixels:
            self._check_shares()

    def _check_shares(self) -> None:
        greatest = max(value for point in self.points for value in point)
        if greatest > _MOST_SHARE:
            raise StreamError(
                f"region {self.name}: {greatest:g} is no share of a picture; for pixels write {greatest:g}px",
                hint=REGION_HINT,
            )
        if any(min(point[axis] for point in self.points) >= 1 for axis in (0, 1)):
            raise StreamError(f"region {self.name}: lies outside of the picture", hint=REGION_HINT)

    @property
    def in_pixels(self) -> bool:
        """Whether the corners are pixels of the first frame, not shares of any frame."""
        return self.unit == "px"

    @property
    def corners(self) -> tuple[Corner, ...]:
        """The corners as `read_region` takes them, in a form that says its unit."""
        if self.in_pixels:
            return tuple((f"{x!r}px", f"{y!r}px") for x, y in self.points)
        return tuple(
            (x if x <= 1 else f"{100 * x!r}%", y if y <= 1 else f"{100 * y!r}%") for x, y in self.points
        )


@dataclass(frozen=True, slots=True)
class Threshold:
    """When the share of some classes in a region is an alarm.

    Attributes:
        name: what is the matter ("road blocked"); without "=", ":" and ";".
        region: name of the region.
        classes: names of the classes whose shares are added up.
        above: True for an alarm over `raise_at`, False for one under it.
        raise_at, clear_at: shares 0..1. The alarm is raised past `raise_at`, and cleared at `clear_at` or
        back past it; in
            between nothing changes.
        for_s: seconds that the share must have been there without a break, for raising and for clearing.
        others: the share of all that is *not* of `classes` counts instead.
    Raises:
        StreamError: no such name, no class, or limits in the wrong order.
    """

    name: str
    region: str
    classes: tuple[str, ...]
    above: bool
    raise_at: float
    clear_at: float
    for_s: float = 0.0
    others: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name, "threshold", THRESHOLD_HINT)
        if not self.classes:
            raise StreamError(f"threshold {self.name}: watches no class", hint=THRESHOLD_HINT)
        if not all(0 <= limit <= 1 for limit in (self.raise_at, self.clear_at)):
            raise StreamError(
                f"threshold {self.name}: limits are shares from 0 to 1, or 0% to 100%", hint=THRESHOLD_HINT
            )
        if self.clear_at > self.raise_at if self.above else self.clear_at < self.raise_at:
            side = "below" if self.above else "above"
            raise StreamError(
                f"threshold {self.name}: the limit that clears it must lie {side} the one that raises it",
                hint=THRESHOLD_HINT,
            )
        if not (math.isfinite(self.for_s) and self.for_s >= 0):
            raise StreamError(f"threshold {self.name}: the time is finite, from 0 s up", hint=THRESHOLD_HINT)


def of_source(text: str) -> tuple[str, str]:
    """Split what a region or a threshold is for from it: "gate:lane=..." -> ("gate", "lane=..."); "" is all
    sources.
    """
    head, equals, rest = text.partition("=")
    source, _, name = head.rpartition(":")
    return source.strip(), f"{name}{equals}{rest}"


def parse_region(text: str) -> Region:
    """Read "lane=0.1,0.6;0.9,0.6;0.5,1" or "lane@1920x1080=192,648;1728,648;960,1080". Raises StreamError."""
    name, equals, corners = text.partition("=")
    points = [tuple(corner.split(",")) for corner in corners.strip(" ;").split(";")]
    if not equals or not corners.strip(" ;") or any(len(point) != 2 for point in points):
        raise StreamError(f"{text!r} is not a region", hint=REGION_HINT)
    sized = _SIZE.fullmatch(name)
    size_hw = (int(sized[3]), int(sized[2])) if sized else None
    return read_region((sized[1] if sized else name).strip(), [(x, y) for x, y in points], size_hw)


def read_region(name: str, corners: Sequence[Corner], size_hw: tuple[int, int] | None = None) -> Region:
    """A region from corners as users write them.

    The form says the unit: "50%" is a share, "640px" a pixel. Plain numbers are shares where none is greater
    than 1, else pixels where all are whole; with a size, or beside numbers in px, they are pixels.

    Args:
        size_hw: of the picture that pixels are of; None: of the source's first frame.
    Raises:
        StreamError: a number that is none, or whose unit cannot be known.
    """
    if size_hw is not None and not all(size_hw):
        raise StreamError(f"region {name}: a picture has no side of 0 pixels", hint=REGION_HINT)
    read = [[_coordinate(name, value) for value in corner] for corner in corners]
    numbers = [number for corner in read for number in corner]
    plain: Unit = "px" if size_hw is not None else _plain_unit(name, numbers)
    points = [[(value, unit or plain) for value, unit in corner] for corner in read]
    if size_hw is None:
        return Region(name, tuple((x, y) for (x, _), (y, _) in points), plain)
    sides = size_hw[::-1]
    shares = [
        [at / side if unit == "px" else at for (at, unit), side in zip(corner, sides, strict=True)]
        for corner in points
    ]
    return Region(name, tuple((x, y) for x, y in shares))


def _plain_unit(name: str, numbers: Sequence[tuple[float, Unit | None]]) -> Unit:
    """What numbers without a unit are, where no size is given. Raises StreamError where that cannot be
    known.
    """
    stated = {unit for _, unit in numbers if unit is not None}
    plain = [value for value, unit in numbers if unit is None]
    if len(stated) == 2:
        raise StreamError(
            f"region {name}: mixes shares and pixels, of a picture of unknown size",
            hint=f"say it: --region '{name}@1920x1080=...', or write all of them in % or in px",
        )
    if "px" in stated:
        return "px"
    odd = max(plain, default=0.0)
    if not odd > 1:
        return "share"
    if not stated and all(value.is_integer() for value in plain):
        return "px"
    raise StreamError(
        f"region {name}: {odd:g} is neither a share, from 0 to 1, nor one of whole numbers of pixels",
        hint=(
            f"write {odd:g}px for pixels or {100 * odd:g}% for a share, or say the size: --region"
            f" '{name}@1920x1080=...'"
        ),
    )


def _coordinate(name: str, value: float | str) -> tuple[float, Unit | None]:
    """A number and its unit, where it says one."""
    if not isinstance(value, str):
        return float(value), None
    text = value.strip()
    unit: Unit | None = "px" if text.endswith("px") else "share" if text.endswith("%") else None
    try:
        number = float(text.removesuffix("px").removesuffix("%"))
    except ValueError:
        raise StreamError(f"region {name}: {value!r} is not a number", hint=REGION_HINT) from None
    return (number / 100 if unit == "share" else number), unit


def parse_threshold(text: str) -> Threshold:
    """Read "NAME=REGION:CLASS+CLASS>RAISE/CLEAR@SECONDS", RAISE and CLEAR as "35%" or "0.35".

    "<" is an alarm under the limit, "!" before the classes means all the others. Without CLEAR the alarm is
    cleared a tenth back from RAISE; without SECONDS at once. Raises StreamError.
    """
    match = _THRESHOLD.fullmatch(text.strip())
    if match is None:
        raise StreamError(f"{text!r} is not a threshold", hint=THRESHOLD_HINT)
    above, raise_at = match["side"] == ">", _share(match["raise"])
    clear_at = _share(match["clear"]) if match["clear"] else default_clear(raise_at, above=above)
    classes, others = parse_classes(match["classes"])
    return Threshold(
        match["name"].strip(),
        match["region"].strip(),
        classes,
        above,
        raise_at,
        clear_at,
        float(match["for"] or 0),
        others,
    )


def parse_classes(text: str) -> tuple[tuple[str, ...], bool]:
    """ "car+bus" -> (("car", "bus"), False); "!road" -> (("road",), True): the others count."""
    text = text.strip()
    names = text.removeprefix("!").split("+")
    return tuple(name.strip() for name in names if name.strip()), text.startswith("!")


def default_clear(raise_at: float, *, above: bool) -> float:
    """The limit that clears an alarm where none was given: a tenth back from the one that raises it."""
    return raise_at * 0.9 if above else min(1.0, raise_at * 1.1)


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def _check_name(name: str, kind: str, hint: str) -> None:
    if not _NAME.fullmatch(name) or name != name.strip():
        raise StreamError(f"{name!r}: a {kind} needs a name, without '=', ':' and ';'", hint=hint)
