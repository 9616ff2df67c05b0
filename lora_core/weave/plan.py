"""What a graph wants applied: adapter files in their order, each at a strength."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..loaded_lora import LoadedLora

AUTO, BRANCH, MERGE = "auto", "branch", "merge"
MODES = (AUTO, BRANCH, MERGE)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedLora:
    """One file at one strength. `mode` is what was asked for; `is_merged` whether its weight patches are made."""

    lora: LoadedLora
    strength: float
    mode: str
    parts: frozenset[str]  # of the model that it changes, such as {"unet"}
    is_merged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class WeavePlan:
    """The files of one patched model, in the order of their nodes in the graph. A change makes a new plan."""

    rows: Sequence[PlannedLora] = ()

    def with_row(self, row: PlannedLora) -> "WeavePlan":
        """The plan with one more file behind the others."""
        return WeavePlan((*self.rows, row))

    @property
    def woven(self) -> Sequence[PlannedLora]:
        """The files that act beside the layers: each once, at the sum of its strengths, in the order of their names.

        Branches add up, so their order is free; a fixed one gives the same matrices, and the same image to the bit,
        however the rows stand in the graph.
        """
        sums: dict[LoadedLora, PlannedLora] = {}
        for row in self.rows:
            if not row.is_merged:
                known = sums.get(row.lora)
                sums[row.lora] = row if known is None else replace(row, strength=known.strength + row.strength)
        return sorted(sums.values(), key=lambda row: row.lora.report.file)
