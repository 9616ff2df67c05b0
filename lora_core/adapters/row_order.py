"""Adapters made for a layer whose rows the trainer has in another order, or together with other layers' rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Adapter, AdditiveAdapter, BadAdapter, FrozenLayer
from .full_delta import FullDelta, Replacement
from .generalized import Generalized
from .input_rotation import InputRotation, InputTurning
from .low_rank import LowRank
from .magnitude import Magnitude
from .rescaling import Rescaling
from .row_runs import RowRuns


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

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch. Modulations are Linear layers, so the output's halves lie on its last axis."""
        half = plain.shape[-1] // 2
        added = self.base.branch(x, torch.roll(plain, half, dims=-1), _SwappedLayer(layer))
        return torch.roll(added, half, dims=-1)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared."""
        return replace(self, base=self.base.prepared(torch.roll(weight, weight.shape[0] // 2, dims=0)))


@dataclass(frozen=True, slots=True, eq=False)
class _SwappedLayer:
    """A FrozenLayer, Linear, whose output has its halves exchanged."""

    layer: FrozenLayer

    def weight(self) -> Tensor:
        weight = self.layer.weight()
        return torch.roll(weight, weight.shape[0] // 2, dims=0)

    def linear(self, x: Tensor) -> Tensor:
        plain = self.layer.linear(x)
        return torch.roll(plain, plain.shape[-1] // 2, dims=-1)

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        return self.layer.apply(weight, x)


@dataclass(frozen=True, slots=True, eq=False)
class SomeRows(AdditiveAdapter):
    """delta = base's delta[start:stop], for one of the layers that the trainer fused."""

    base: AdditiveAdapter
    start: int
    stop: int

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        return self.base.delta()[self.start : self.stop]


def take_rows(adapter: Adapter, start: int, stop: int) -> Adapter:
    """The adapter of the output rows [start, stop) alone.

    Raises BadAdapter for one that needs the whole weight at once, such as magnitudes per input.
    """
    match adapter:
        case LowRank():
            up = adapter.up[start:stop]
            return replace(adapter, up=up, shape=(stop - start, *adapter.shape[1:]))
        case Magnitude() if not adapter.per_input:
            base = take_rows(adapter.base, start, stop)
            assert isinstance(base, AdditiveAdapter)  # rows of an additive adapter add up as well
            return replace(adapter, base=base, magnitude=adapter.magnitude[start:stop])
        case FullDelta():
            return replace(adapter, difference=adapter.difference[start:stop])
        case Replacement():
            return replace(adapter, replacement=adapter.replacement[start:stop])
        case Generalized():
            return replace(adapter, b_up=adapter.b_up[start:stop], shape=(stop - start, *adapter.shape[1:]))
        case Rescaling():
            return adapter if adapter.per_input else replace(adapter, factors=adapter.factors[start:stop])
        case InputRotation():
            return replace(adapter, shape=(stop - start, *adapter.shape[1:]))
        case InputTurning():
            gain = None if adapter.gain is None else adapter.gain[start:stop]
            return replace(adapter, gain=gain, shape=(stop - start, *adapter.shape[1:]))
        case RowRuns() if (start, stop) in adapter.spans():
            return adapter.runs[adapter.spans().index((start, stop))]
        case AdditiveAdapter():
            return SomeRows(adapter, start, stop)
        case _:
            raise BadAdapter(
                "the file has q, k and v as one layer and the model has them apart; this algorithm mixes their rows, "
                "so it can't be split exactly"
            )
