"""What a graph wants applied: adapter files in their order, each at a strength."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..loading.loaded_lora import LoadedLora
from .schedule import Schedule

AUTO, BRANCH, MERGE = "auto", "branch", "merge"
MODES = (AUTO, BRANCH, MERGE)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedLora:
    """One file at one strength. `mode` is what was asked for; `is_merged` whether its weight patches are made.

    The strength of image i at a position of sampling is strength * schedule(position) * images[i].
    """

    lora: LoadedLora
    strength: float
    mode: str
    parts: frozenset[str]  # of the model that it changes, such as {"unet"}
    is_merged: bool = False
    schedule: Schedule | None = None
    images: tuple[float, ...] = ()  # a factor for each image of the batch; none: 1 for all

    @property
    def is_fixed(self) -> bool:
        """Whether its strength is the same in all steps and for all images."""
        return self.schedule is None and not self.images

    def strength_at(self, position: float, image: int) -> float:
        """Its strength for one image, at a position of sampling from 0 to 1."""
        factor = 1.0 if self.schedule is None else self.schedule.factor(position)
        return self.strength * factor * (self.images[image] if self.images else 1.0)


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
        however the rows stand in the graph. A row whose strength changes stands for itself.
        """
        sums: dict[LoadedLora | PlannedLora, PlannedLora] = {}
        for row in self.rows:
            if not row.is_merged:
                key = row.lora if row.is_fixed else row
                known = sums.get(key)
                sums[key] = row if known is None else replace(row, strength=known.strength + row.strength)
        return sorted(sums.values(), key=lambda row: row.lora.report.file)


def strengths_at(rows: Sequence[PlannedLora], positions: Sequence[float], images: int) -> Tensor:
    """The strengths of files for one call of the model: [files] where its samples agree, else [samples, files].

    Args:
        rows: the files.
        positions: of sampling, 0 to 1, of each sample of the call.
        images: of the batch; the call's samples are the images, once or several times behind each other.
    """
    if len(set(positions)) == 1 and not any(row.images for row in rows):
        return torch.tensor([row.strength_at(positions[0], 0) for row in rows], dtype=torch.float32)
    samples = enumerate(positions)
    table = [[row.strength_at(position, number % images) for row in rows] for number, position in samples]
    return torch.tensor(table, dtype=torch.float32)
