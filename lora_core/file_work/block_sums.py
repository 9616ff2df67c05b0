"""Sums a file up per block of the model: keys that matched and that did not, and how large the change is."""

from dataclasses import dataclass

from ..adapters import WEIGHT
from ..loading.loaded_lora import LoadedLora, PlacedAdapter
from ..names.block_names import OTHER, block_in_file, in_order
from ..names.key_map import bare_name, parse_key
from ..names.key_report import KeyReport
from .deltas.adapter_to_factored import FACTORED, NeedsWeight, delta_of, factored


@dataclass(frozen=True, slots=True)
class BlockCount:
    """The keys of one block."""

    block: str
    matched: int
    unmatched: int


@dataclass(frozen=True, slots=True)
class BlockNorm:
    """How large a file's change of one block is, at strength 1."""

    block: str
    norm: float  # root of the sum of the squares of all deltas; no unit
    layers: int  # whose norm was computed
    unknown: int  # layers whose delta depends on the model's weight


def count_blocks(report: KeyReport) -> list[BlockCount]:
    """The keys of each block, in natural order. Names are those of the file, without the prefix of the part."""
    counts: dict[str, list[int]] = {}
    keys = [(key, 0) for key in report.matched] + [(note.key, 1) for note in report.unmatched]
    for key, column in keys:
        parsed = parse_key(key)
        counts.setdefault(block_in_file(bare_name(parsed.layer)) if parsed else OTHER, [0, 0])[column] += 1
    return [BlockCount(block, *counts[block]) for block in in_order(counts)]


def block_norms(lora: LoadedLora) -> list[BlockNorm]:
    """The norm of the change of each block: sqrt(sum over its layers of ||scale * up @ down||^2), in float64."""
    sums: dict[str, list[float]] = {}
    counts: dict[str, list[int]] = {}
    for placed in lora.adapters:
        block = block_in_file(bare_name(placed.layer))
        norm = _norm(placed)
        counts.setdefault(block, [0, 0])[norm is None] += 1
        sums.setdefault(block, []).append((norm or 0.0) ** 2)
    return [BlockNorm(block, sum(sums[block]) ** 0.5, *counts[block]) for block in in_order(sums)]


def _norm(placed: PlacedAdapter) -> float | None:
    """Of one layer's delta, by its factors where it has two sides; None where it depends on the model's weight."""
    try:
        if placed.parameter == WEIGHT and type(placed.adapter) in FACTORED:
            return factored(placed.adapter).norm()
        return float(delta_of(placed.adapter).double().square().sum()) ** 0.5
    except NeedsWeight:
        return None
