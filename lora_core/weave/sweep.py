"""A sweep of strengths: lists of them as text, and the cells of the grid that one batch of images fills."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadSetting, listed
from .strength_limit import RANGE as STRENGTHS
from .strength_limit import is_within_limit

CELLS_LIMIT = 256  # of a grid
DIGITS = 9  # behind the point, to which the numbers of a range are rounded
EXPECTED = f"numbers {STRENGTHS} as '0, 0.5, 1', or a range as '0..1 step 0.25'"
TEXT_AT_MOST = 10_000  # characters
STEP = re.compile(r"\sstep\s", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Axis:
    """The strengths of one file, along the columns or the rows of a grid."""

    name: str
    strengths: tuple[float, ...]

    def labels(self) -> list[str]:
        """What stands over a column or beside a row."""
        return [f"{strength:g}" for strength in self.strengths]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A grid of cells, row by row: the order of the images in the batch."""

    columns: Axis
    rows: Axis | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return 1 if self.rows is None else len(self.rows.strengths), len(self.columns.strengths)

    @property
    def cells(self) -> int:
        """Images of the batch."""
        return self.shape[0] * self.shape[1]

    def of_columns(self) -> tuple[float, ...]:
        """For each cell the strength of the columns' file."""
        return self.columns.strengths * self.shape[0]

    def of_rows(self) -> tuple[float, ...]:
        """For each cell the strength of the rows' file; empty if there is none."""
        if self.rows is None:
            return ()
        return tuple(strength for strength in self.rows.strengths for _ in self.columns.strengths)


def sweep_of(columns: Axis, rows: Axis | None) -> Sweep:
    """The grid of two axes. Raises BadSetting if it has too many cells."""
    sweep = Sweep(columns, rows)
    if sweep.cells > CELLS_LIMIT:
        high, wide = sweep.shape
        raise BadSetting(f"{wide} x {high} strengths are {sweep.cells} images; at most {CELLS_LIMIT} were expected")
    return sweep


def parse_strengths(text: str) -> tuple[float, ...]:
    """The strengths that a text lists: numbers and ranges with both ends in, separated by commas.

    Raises BadSetting listing everything that can't be read.
    """
    if len(text) > TEXT_AT_MOST:
        raise BadSetting(f"at most {TEXT_AT_MOST} characters of strengths were expected, found {len(text)}")
    found: list[float] = []
    reasons: list[str] = []
    for part in (part.strip() for part in text.replace("\n", ",").split(",")):
        if not part:
            continue
        try:
            found += _part(part)
        except ValueError as reason:
            reasons.append(str(reason))
    if not found and not reasons:
        reasons.append("there is none")
    if reasons:
        raise BadSetting(f"the strengths can't be read: {listed(reasons)}. Expected: {EXPECTED}")
    return tuple(found)


def _part(part: str) -> Sequence[float]:
    if ".." not in part:
        return [_strength(part, part)]
    ends, *steps = STEP.split(part)
    if len(steps) != 1 or ends.count("..") != 1:
        raise ValueError(f"'{part:.40}' is no range")
    first, last, step = (_strength(number.strip(), part) for number in (*ends.split(".."), *steps))
    if step <= 0:
        raise ValueError(f"'{part:.40}': the step should be above 0, found {step:g}")
    count = math.floor(abs(last - first) / step + 1e-9) + 1
    if count > CELLS_LIMIT:
        raise ValueError(f"'{part:.40}' has {count} strengths; at most {CELLS_LIMIT} were expected")
    way = step if last >= first else -step
    return [round(first + number * way, DIGITS) for number in range(count)]


def _strength(text: str, part: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not is_within_limit(strength):
        raise ValueError(f"'{part:.40}': a number {STRENGTHS} was expected, found '{text:.40}'")
    return strength
