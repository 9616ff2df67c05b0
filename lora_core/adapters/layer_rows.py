"""Some output rows of a frozen layer as a layer of its own, for an adapter of a part of a fused weight."""

from dataclasses import dataclass

from torch import Tensor

from .base import FrozenLayer


@dataclass(frozen=True, slots=True, eq=False)
class LayerRows:
    """A FrozenLayer of the rows [start, stop) of another, which has one group."""

    layer: FrozenLayer
    start: int
    stop: int
    axis: int = -1  # of the output's channels: -1 of a Linear layer, 1 of a convolution

    def weight(self) -> Tensor:
        """See FrozenLayer.weight: [stop - start, in, *kernel]."""
        return self.layer.weight()[self.start : self.stop]

    def linear(self, x: Tensor) -> Tensor:
        """See FrozenLayer.linear."""
        return self.layer.linear(x).narrow(self.axis, self.start, self.stop - self.start)

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """See FrozenLayer.apply."""
        return self.layer.apply(weight, x)
