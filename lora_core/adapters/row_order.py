"""An adapter made for a layer whose rows the trainer has in another order than the model."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Adapter


@dataclass(frozen=True, slots=True, eq=False)
class SwappedHalves(Adapter):
    """delta(weight) = swap(base's delta(swap(weight))), where swap exchanges the two halves of the output rows.

    For modulation layers: diffusers stores (scale, shift), the original models (shift, scale).
    """

    base: Adapter

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        half = weight.shape[0] // 2
        return torch.roll(self.base.delta_of(torch.roll(weight, half, dims=0)), half, dims=0)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Adapter.tensors."""
        return self.base.tensors()

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "SwappedHalves":
        """See Adapter.with_tensors."""
        return replace(self, base=self.base.with_tensors(tensors))
