"""A strength that changes over sampling: points of a curve, and the text that says them."""

import re
from dataclasses import dataclass

from ..errors import BadSchedule
from .strength_limit import BETWEEN, RANGE, is_within_limit

POINTS_LIMIT = 64
TEXT_AT_MOST = 10_000  # characters
EXPECTED = f"'position:factor' with a position from 0 to 1 and a factor {RANGE}"

NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

Point = tuple[float, float]  # (position, factor)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Piecewise linear: factor(p) = f_i + (f_j - f_i) (p - p_i) / (p_j - p_i) between neighbours i and j.

    A position is the share of sampling that is done, 0 to 1, without unit. Before the first point its factor holds,
    after the last one the last's. Of two points at one position the first ends the curve before it and the second
    begins the curve from it on: a jump.
    """

    points: tuple[Point, ...]  # at least one, by rising position

    def factor(self, position: float) -> float:
        """What the strength is multiplied with at a position."""
        before = [point for point in self.points if point[0] <= position]
        after = [point for point in self.points if point[0] > position]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (left, low), (right, high) = before[-1], after[0]
        return low + (high - low) * (position - left) / (right - left)

    def text(self) -> str:
        """As `parse_schedule` reads it."""
        return ", ".join(f"{position:g}:{factor:g}" for position, factor in self.points)


def parse_schedule(text: str) -> Schedule:
    """The schedule that a text says: points `position:factor`, separated by commas, in any order.

    Points of one position keep the order of the text. Raises BadSchedule listing every point that can't be read.
    """
    if len(text) > TEXT_AT_MOST:
        raise BadSchedule([f"at most {TEXT_AT_MOST} characters were expected, found {len(text)}"])
    points: list[Point] = []
    reasons: list[str] = []
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    for part in parts:
        if not part:
            continue
        try:
            points.append(_point(part))
        except ValueError as reason:
            reasons.append(str(reason))
    if len(points) > POINTS_LIMIT:
        reasons.append(f"at most {POINTS_LIMIT} points were expected, found {len(points)}")
    if not points and not reasons:
        reasons.append(f"there is no point; {EXPECTED} was expected, such as '0:0, 0.3:1'")
    if reasons:
        raise BadSchedule(reasons)
    return Schedule(tuple(sorted(points, key=lambda point: point[0])))


def _point(part: str) -> Point:
    position, colon, factor = part.partition(":")
    if not colon:
        raise ValueError(f"'{part:.40}': {EXPECTED} was expected")
    point = _number(position, part), _number(factor, part)
    if not 0 <= point[0] <= 1:
        raise ValueError(f"'{part:.40}': the position should lie between 0 and 1, found {point[0]:g}")
    if not is_within_limit(point[1]):
        raise ValueError(f"'{part:.40}': the factor should lie {BETWEEN}, found {point[1]:g}")
    return point


def _number(text: str, part: str) -> float:
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(f"'{part:.40}': a number was expected, found '{text.strip():.40}'")
    return float(text)
