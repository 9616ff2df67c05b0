"""DoRA: another adapter's direction with magnitudes of its own, per output or per input of the layer."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .base import Adapter, AdditiveAdapter, BadAdapter, FrozenLayer
from .channels import is_plain, scaled

EITHER = "magnitude"  # role: per output or per input, told by the shape; as LyCORIS, kohya and OneTrainer write it
PER_OUTPUT = "magnitude_per_output"  # role: as PEFT and ai-toolkit write it

SMALLEST_NORM = 1e-12  # a zero row has no direction; it stays zero


@dataclass(frozen=True, slots=True, eq=False)
class Magnitude(Adapter):
    """delta = magnitude * (weight + base) / ||weight + base|| - weight, norms along the magnitude's other axes.

    Linear in strength between the weight (0) and the trained layer (1). Source: Liu et al. 2024 (arXiv 2402.09353)
    eq. 5, without its detached gradient, which is for training alone; axes as in LyCORIS 4.1 and PEFT 0.21.2.
    """

    base: AdditiveAdapter
    magnitude: Tensor  # [out, 1, ...] or [1, in, 1, ...]
    per_input: bool

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        changed = self._changed(weight)
        return changed.mul_(self._gains(changed)).sub_(weight)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch; reads the weight for its norms, which `prepared` keeps."""
        return self.prepared(layer.weight()).branch(x, plain, layer)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared: the norms, taken once."""
        return Gained(self.base, self._gains(self._changed(weight)))

    def _changed(self, weight: Tensor) -> Tensor:
        return weight + self.base.delta().to(weight.device).reshape(weight.shape)

    def _gains(self, changed: Tensor) -> Tensor:
        magnitude = self.magnitude.to(changed.device).float()
        axes = [axis for axis in range(changed.dim()) if axis != int(self.per_input)]
        return magnitude / changed.square().sum(dim=axes, keepdim=True).sqrt().clamp_min(SMALLEST_NORM)


@dataclass(frozen=True, slots=True, eq=False)
class Gained(Adapter):
    """delta = gain * (weight + base) - weight: Magnitude with its norms worked out."""

    base: AdditiveAdapter
    gains: Tensor  # [out, 1, ...] or [1, in, 1, ...]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        changed = weight + self.base.delta().to(weight.device).reshape(weight.shape)
        return changed.mul_(self.gains.to(weight.device)).sub_(weight)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: outputs, or inputs, times their gains."""
        gains, shape = self.gains.flatten(), tuple(self.gains.shape)
        if shape[0] == gains.numel():
            added = self.base.branch(x, plain, layer)
            return scaled(gains - 1.0, plain, shape) + scaled(gains, added, shape)
        if not is_plain((1, gains.numel(), *shape[2:]), x):
            return Adapter.branch(self, x, plain, layer)
        gained = scaled(gains, x, shape)
        return layer.linear(scaled(gains - 1.0, x, shape)) + self.base.branch(gained, plain, layer)


def magnitudes(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, bool] | None:
    """The magnitudes among a layer's tensors, in the weight's number of sides, and whether they are per input.

    dora_scale [1, in, ...] is per input, everything else per output. PEFT's magnitudes are per output, [out] or, of a
    convolution, [1, out, 1, 1]; but [1, in] under their name is what OneTrainer renames from its own, per input.

    Raises BadAdapter if they fit neither the outputs nor the inputs, or are there twice.
    """
    given = [role for role in (EITHER, PER_OUTPUT) if role in tensors]
    if not given:
        return None
    if len(given) > 1:
        raise BadAdapter("the file gives this layer's magnitudes (DoRA) twice")
    if len(shape) < 2:
        raise BadAdapter(f"magnitudes (DoRA) belong to a matrix, but the model's parameter is {list(shape)}")
    stored = tensors[given[0]]
    per_input = stored.dim() > 1 and stored.shape[0] == 1 and shape[1:2] == (stored.numel(),)
    if given[0] == PER_OUTPUT and stored.numel() == shape[0] and stored.dim() != 2:
        per_input = False
    if not per_input and stored.numel() != shape[0]:
        raise BadAdapter(
            f"shape mismatch: the layer is {list(shape)}, so magnitudes [{shape[0]}, 1] or {[1, *shape[1:2]]} were "
            f"expected; found {list(stored.shape)}"
        )
    sides = [1] * len(shape)
    sides[int(per_input)] = stored.numel()
    return stored.reshape(sides), per_input
