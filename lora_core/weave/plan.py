"""What a graph wants applied: adapter files in their order, each at a strength."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..loaded_lora import LoadedLora, PlacedAdapter

AUTO, BRANCH, MERGE = "auto", "branch", "merge"
MODES = (AUTO, BRANCH, MERGE)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedLora:
    """One file at one strength. `mode` is what was asked for; `is_merged` whether its weight patches are made."""

    lora: LoadedLora
    strength: float
    mode: str
    is_merged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class WeavePlan:
    """The files of one patched model, in the order of their nodes in the graph. A change makes a new plan."""

    rows: Sequence[PlannedLora] = ()
    parts: frozenset[str] = frozenset()  # of the model that the plan is for, such as {"unet"}

    def with_row(self, row: PlannedLora) -> "WeavePlan":
        """The plan with one more file behind the others."""
        return replace(self, rows=(*self.rows, row))

    @property
    def beside(self) -> Sequence[PlannedLora]:
        """The files that act beside the layers, not in their weights."""
        return [row for row in self.rows if not row.is_merged]

    def adapters(self, row: PlannedLora) -> Sequence[PlacedAdapter]:
        """A file's adapters for this model's parts."""
        return row.lora.of_parts(self.parts)
