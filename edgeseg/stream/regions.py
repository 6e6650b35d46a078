"""Regions of interest and what is too much in them: polygons, thresholds, and how users write both. See `stream.alarms`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from edgeseg.errors import StreamError

REGION_HINT = "write --region 'lane=0.1,0.6;0.9,0.6;0.9,1;0.1,1', in shares of width and height (0..1) or in pixels"
THRESHOLD_HINT = "write --threshold 'road blocked=lane:!road>35%/30%@2s' or 'busy=lane:car+bus>0.2'"
_NAME = re.compile(r"[^\s=:;][^=:;]*")
_NUMBER = r"\d+(?:\.\d+)?"
_THRESHOLD = re.compile(
    rf"(?P<name>[^=]*)=(?P<region>[^:]+):(?P<classes>[^<>]+)(?P<side>[<>])"
    rf"(?P<raise>{_NUMBER}%?)(?:/(?P<clear>{_NUMBER}%?))?(?:@(?P<for>{_NUMBER})s?)?"
)


@dataclass(frozen=True, slots=True)
class Region:
    """A polygon in the picture. Its sides may cross: a point is inside where a ray from it meets an odd number of sides.

    Attributes:
        name: how results call it; without "=", ":" and ";".
        points: three or more corners (x, y). Where no number is greater than 1 they are shares of the frame's width and height,
            otherwise pixels of the first frame, from its upper left corner; for frames of another size these are scaled.
    Raises:
        StreamError: no such name, fewer corners, or a number that is negative or not finite.
    """

    name: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        _check_name(self.name, "region", REGION_HINT)
        if len(self.points) < 3:
            raise StreamError(
                f"region {self.name}: a polygon has three corners at least, not {len(self.points)}", hint=REGION_HINT
            )
        if not all(math.isfinite(value) and value >= 0 for point in self.points for value in point):
            raise StreamError(f"region {self.name}: coordinates are finite numbers from 0 up", hint=REGION_HINT)

    @property
    def in_pixels(self) -> bool:
        """Whether the corners are pixels of the first frame, not shares of any frame."""
        return any(value > 1 for point in self.points for value in point)


@dataclass(frozen=True, slots=True)
class Threshold:
    """When the share of some classes in a region is an alarm.

    Attributes:
        name: what is the matter ("road blocked"); without "=", ":" and ";".
        region: name of the region.
        classes: names of the classes whose shares are added up.
        above: True for an alarm over `raise_at`, False for one under it.
        raise_at, clear_at: shares 0..1. The alarm is raised past `raise_at`, and cleared at `clear_at` or back past it; in
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
            raise StreamError(f"threshold {self.name}: limits are shares from 0 to 1, or 0% to 100%", hint=THRESHOLD_HINT)
        if self.clear_at > self.raise_at if self.above else self.clear_at < self.raise_at:
            side = "below" if self.above else "above"
            raise StreamError(
                f"threshold {self.name}: the limit that clears it must lie {side} the one that raises it", hint=THRESHOLD_HINT
            )
        if not (math.isfinite(self.for_s) and self.for_s >= 0):
            raise StreamError(f"threshold {self.name}: the time is finite, from 0 s up", hint=THRESHOLD_HINT)


def parse_region(text: str) -> Region:
    """Read "lane=0.1,0.6;0.9,0.6;0.5,1". Raises StreamError."""
    name, equals, corners = text.partition("=")
    try:
        points = [tuple(float(number) for number in corner.split(",")) for corner in corners.strip(" ;").split(";")]
    except ValueError:
        points = []
    if not equals or not points or any(len(point) != 2 for point in points):
        raise StreamError(f"{text!r} is not a region", hint=REGION_HINT)
    return Region(name.strip(), tuple((point[0], point[1]) for point in points))


def parse_threshold(text: str) -> Threshold:
    """Read "NAME=REGION:CLASS+CLASS>RAISE/CLEAR@SECONDS", RAISE and CLEAR as "35%" or "0.35".

    "<" is an alarm under the limit, "!" before the classes means all the others. Without CLEAR the alarm is cleared a tenth back
    from RAISE; without SECONDS at once. Raises StreamError.
    """
    match = _THRESHOLD.fullmatch(text.strip())
    if match is None:
        raise StreamError(f"{text!r} is not a threshold", hint=THRESHOLD_HINT)
    above, raise_at = match["side"] == ">", _share(match["raise"])
    clear_at = _share(match["clear"]) if match["clear"] else default_clear(raise_at, above=above)
    classes, others = parse_classes(match["classes"])
    return Threshold(
        match["name"].strip(), match["region"].strip(), classes, above, raise_at, clear_at, float(match["for"] or 0), others
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
