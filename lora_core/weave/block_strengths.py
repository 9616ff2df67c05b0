"""Strengths of single blocks of one file: the text that says them, and the file taken apart by them."""

import math
import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import BadBlocks
from ..loading.loaded_lora import LoadedLora
from ..names.block_names import block_of
from ..names.target_layer import UNET, ModelLayout, TargetLayer
from .schedule import FACTOR_LIMIT, NUMBER

EXPECTED = "'PATTERN=FACTOR' with a factor from -100 to 100, such as 'in4=0.5' or 'out*=0'"
UNET_BLOCK = re.compile(r"^(input|middle|output)_blocks?(?:\.(\d+))?(?=\.|$)")
SHORT = {"input": "in", "middle": "mid", "output": "out"}  # of a UNet's blocks, as people name them
PARTS_KEPT = 64  # of one file


@dataclass(frozen=True, slots=True)
class BlockStrengths:
    """Factors of the layers that fit a pattern; of a layer that several fit, their product; of all others 1."""

    factors: tuple[tuple[str, float], ...]  # (pattern with * and ? as in file names, factor without unit)

    def text(self) -> str:
        """As `parse_block_strengths` reads it."""
        return ", ".join(f"{pattern}={factor:g}" for pattern, factor in self.factors)

    def of(self, layer: TargetLayer) -> float:
        """The factor of a layer: the product of all factors whose pattern fits."""
        return math.prod(factor for pattern, factor in self.factors if _fits(pattern, layer))

    def check(self, layout: ModelLayout) -> None:
        """Raise BadBlocks listing every pattern that no layer of the model fits, with the blocks that there are."""
        layers = layout.targets.values()
        unknown = [pattern for pattern, _ in self.factors if not any(_fits(pattern, layer) for layer in layers)]
        if unknown:
            reasons = [f"no block of the model fits '{pattern:.40}'" for pattern in unknown]
            raise BadBlocks(reasons, f"Blocks of this model: {', '.join(block_names(layout))}.")


def parse_block_strengths(text: str) -> BlockStrengths:
    """The factors that a text says: PATTERN=FACTOR, separated by commas, semicolons or lines.

    Raises BadBlocks listing every part that can't be read.
    """
    factors: list[tuple[str, float]] = []
    reasons: list[str] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        pattern, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals or not pattern or not NUMBER.fullmatch(number) or abs(float(number)) > FACTOR_LIMIT:
            reasons.append(f"'{part:.40}': {EXPECTED} was expected")
            continue
        factors.append((pattern, float(number)))
    if reasons:
        raise BadBlocks(reasons)
    return BlockStrengths(tuple(factors))


def block_names(layout: ModelLayout) -> list[str]:
    """The blocks of a model by their short names, as a person counts."""
    return sorted({_block_name(layer) for layer in layout.targets.values()}, key=_counted)


_PARTS: "weakref.WeakKeyDictionary[LoadedLora, dict[tuple[int, ...], LoadedLora]]" = weakref.WeakKeyDictionary()


def by_strength(lora: LoadedLora, blocks: BlockStrengths, layout: ModelLayout) -> Sequence[tuple[LoadedLora, float]]:
    """The file taken apart: the layers of each factor as a file of their own; those of factor 0 are left out.

    The change is sum_f strength * f * delta of the layers with factor f. The same groups are the same objects, so that
    other factors of the same blocks are no more than another strength. No tensor is copied.

    Raises BadBlocks for patterns that nothing in the model fits.
    """
    blocks.check(layout)
    groups: dict[float, list[int]] = {}
    for number, placed in enumerate(lora.adapters):
        groups.setdefault(blocks.of(layout.targets[placed.place.path]), []).append(number)
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


def _fits(pattern: str, layer: TargetLayer) -> bool:
    return any(fnmatchcase(name, pattern) for name in _names(layer))


def _names(layer: TargetLayer) -> Iterator[str]:
    """What a pattern may say of a layer: its path with and without the part's prefix, and its block's names."""
    yield layer.path
    yield layer.inner
    yield block_of(layer)
    yield _block_name(layer)


def _block_name(layer: TargetLayer) -> str:
    """The block's name: "in4", "mid" and "out4" in a UNet with such blocks, else as `block_of` has it."""
    found = UNET_BLOCK.match(layer.inner) if layer.part == UNET else None
    if found is None:
        return block_of(layer)
    return SHORT[found[1]] + ("" if found[1] == "middle" else found[2] or "")


def _counted(name: str) -> list[tuple[bool, int, str]]:
    """Sorts block 2 before block 10."""
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.findall(r"\d+|\D+", name)]
