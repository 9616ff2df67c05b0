"""Strengths of single blocks of one file: the text that says them, and the file taken apart by them."""

import math
import re
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import BadBlocks
from ..loading.loaded_lora import LoadedLora
from ..names.block_names import in_order, short_block_of
from ..names.name_table import NameTable
from ..names.target_layer import ModelLayout
from .schedule import NUMBER
from .strength_limit import RANGE, is_within_limit

EXPECTED = f"'PATTERN=FACTOR' with a factor {RANGE}, such as 'in4=0.5' or 'out*=0'"
PARTS_KEPT = 64  # of one file
TEXT_AT_MOST, FACTORS_AT_MOST = 200_000, 5_000  # characters; pairs of pattern and factor


@dataclass(frozen=True, slots=True)
class BlockStrengths:
    """Factors of the layers that fit a pattern; of a layer that several fit, their product; of all others 1."""

    factors: tuple[tuple[str, float], ...]  # (pattern with * and ? as in file names, factor without unit)

    def text(self) -> str:
        """As `parse_block_strengths` reads it."""
        return ", ".join(f"{pattern}={factor:g}" for pattern, factor in self.factors)

    def of(self, names: Collection[str]) -> float:
        """The factor of a layer with these names: the product of all factors whose pattern fits one of them."""
        return math.prod(factor for pattern, factor in self.factors if _fits(pattern, names))

    def check(self, table: NameTable) -> None:
        """Raise BadBlocks listing every pattern that no layer of the model fits, with the blocks that there are."""
        layers = table.names_by_path.values()
        unknown = [pattern for pattern, _ in self.factors if not any(_fits(pattern, names) for names in layers)]
        if unknown:
            reasons = [f"no block of the model fits '{pattern:.40}'" for pattern in unknown]
            raise BadBlocks(reasons, f"Blocks of this model: {', '.join(block_names(table.layout))}.")


def parse_block_strengths(text: str) -> BlockStrengths:
    """The factors that a text says: PATTERN=FACTOR, separated by commas, semicolons or lines.

    Raises BadBlocks listing every part that can't be read.
    """
    if len(text) > TEXT_AT_MOST:
        raise BadBlocks([f"at most {TEXT_AT_MOST} characters were expected, found {len(text)}"])
    factors: list[tuple[str, float]] = []
    reasons: list[str] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        pattern, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals or not pattern or not NUMBER.fullmatch(number) or not is_within_limit(float(number)):
            reasons.append(f"'{part:.40}': {EXPECTED} was expected")
            continue
        factors.append((pattern, float(number)))
    if len(factors) > FACTORS_AT_MOST:
        reasons.append(f"at most {FACTORS_AT_MOST} factors were expected, found {len(factors)}")
    if reasons:
        raise BadBlocks(reasons)
    return BlockStrengths(tuple(factors))


def block_names(layout: ModelLayout) -> list[str]:
    """The blocks of a model by their short names, as a person counts."""
    return in_order({short_block_of(layer) for layer in layout.targets.values()})


_PARTS: "weakref.WeakKeyDictionary[LoadedLora, dict[tuple[int, ...], LoadedLora]]" = weakref.WeakKeyDictionary()


def by_strength(lora: LoadedLora, blocks: BlockStrengths, table: NameTable) -> Sequence[tuple[LoadedLora, float]]:
    """The file taken apart: the layers of each factor as a file of their own; those of factor 0 are left out.

    The change is sum_f strength * f * delta of the layers with factor f. The same groups are the same objects, so that
    other factors of the same blocks are no more than another strength. No tensor is copied.

    Raises BadBlocks for patterns that nothing in the model fits.
    """
    blocks.check(table)
    groups: dict[float, list[int]] = {}
    for number, placed in enumerate(lora.adapters):
        groups.setdefault(blocks.of(table.names_by_path[placed.place.path]), []).append(number)
    return [(_part(lora, tuple(numbers)), factor) for factor, numbers in groups.items() if factor]


def _part(lora: LoadedLora, numbers: tuple[int, ...]) -> LoadedLora:
    if len(numbers) == len(lora.adapters):
        return lora
    kept = _PARTS.setdefault(lora, {})
    if numbers not in kept:
        if len(kept) >= PARTS_KEPT:
            kept.clear()
        kept[numbers] = replace(lora, adapters=[lora.adapters[number] for number in numbers])
    return kept[numbers]


def _fits(pattern: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
