"""An adapter for a layer with more inputs than the model's: the weight is padded with zeros before it is changed."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from .base import Adapter, FrozenLayer


@dataclass(frozen=True, slots=True, eq=False)
class Enlarged(Adapter):
    """weight' = padded(weight) + strength * base's delta(padded(weight)).

    For files that give a layer new inputs, such as the control LoRAs of Flux, which read a second picture. It changes
    what the layer takes, so it can't stand beside the layer: it is always merged.
    """

    base: Adapter
    shape: tuple[int, ...]  # [out, in, *kernel] of the padded weight; no side smaller than the model's

    def room_for(self, weight: Tensor) -> Tensor:
        """See Adapter.room_for; a weight that another file has padded already is taken as it is."""
        if tuple(weight.shape) == self.shape:
            return weight
        missing = [wanted - found for wanted, found in zip(self.shape, weight.shape, strict=True)]
        return pad(weight, [side for count in reversed(missing) for side in (0, count)])

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of; of a weight that `room_for` gave."""
        return self.base.delta_of(weight)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """There is none: the layer's own operation does not take the new inputs."""
        raise NotImplementedError("an enlarged layer has no branch; merge it")
