"""Adapters made for a layer whose rows the trainer has in another order, or together with other layers' rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Adapter, AdditiveAdapter, BadAdapter
from .full_delta import FullDelta, Replacement
from .low_rank import LowRank
from .magnitude import Magnitude


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


@dataclass(frozen=True, slots=True, eq=False)
class SomeRows(AdditiveAdapter):
    """delta = base's delta[start:stop], for one of the layers that the trainer fused."""

    base: AdditiveAdapter
    start: int
    stop: int

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        return self.base.delta()[self.start : self.stop]

    def tensors(self) -> tuple[Tensor, ...]:
        """See Adapter.tensors."""
        return self.base.tensors()

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "SomeRows":
        """See Adapter.with_tensors."""
        base = self.base.with_tensors(tensors)
        assert isinstance(base, AdditiveAdapter)  # the same class as before
        return replace(self, base=base)


def take_rows(adapter: Adapter, start: int, stop: int) -> Adapter:
    """The adapter of the output rows [start, stop) alone.

    Raises BadAdapter for one that needs the whole weight at once, such as magnitudes per input.
    """
    match adapter:
        case LowRank():
            up = adapter.up[start:stop]
            return replace(adapter, up=up, shape=(stop - start, *adapter.shape[1:]))
        case Magnitude() if adapter.magnitude.shape[0] != 1:
            base = take_rows(adapter.base, start, stop)
            assert isinstance(base, AdditiveAdapter)  # rows of an additive adapter add up as well
            return replace(adapter, base=base, magnitude=adapter.magnitude[start:stop])
        case FullDelta():
            return replace(adapter, difference=adapter.difference[start:stop])
        case Replacement():
            return replace(adapter, replacement=adapter.replacement[start:stop])
        case AdditiveAdapter():
            return SomeRows(adapter, start, stop)
        case _:
            raise BadAdapter(
                "the file has q, k and v as one layer and the model has them apart; this algorithm mixes their rows, "
                "so it can't be split exactly"
            )
