"""Adapters of their own for consecutive runs of a layer's output rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Adapter, FrozenLayer
from .channels import split
from .layer_rows import LayerRows


@dataclass(frozen=True, slots=True, eq=False)
class RowRuns(Adapter):
    """delta = the runs' deltas one below the other; run i changes rows[i] rows of the weight."""

    runs: tuple[Adapter, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        parts = zip(self.runs, split(weight, self.rows, 0), strict=True)
        return torch.cat([run.delta_of(part) for run, part in parts])

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch."""
        axis = 1 if len(self.shape) > 2 else -1
        changes: list[Tensor] = []
        for run, span, part in zip(self.runs, self.spans(), split(plain, self.rows, axis), strict=True):
            changes.append(run.branch(x, part, LayerRows(layer, *span, axis)))
        return torch.cat(changes, axis)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared."""
        parts = zip(self.runs, split(weight, self.rows, 0), strict=True)
        return replace(self, runs=tuple(run.prepared(part) for run, part in parts))

    def spans(self) -> list[tuple[int, int]]:
        """The rows [start, stop) of each run."""
        starts = [sum(self.rows[:number]) for number in range(len(self.rows))]
        return [(start, start + count) for start, count in zip(starts, self.rows, strict=True)]
