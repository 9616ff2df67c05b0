"""DoRA: another adapter's direction with magnitudes of its own, per output or per input of the layer."""

from dataclasses import dataclass, replace

from torch import Tensor

from .base import Adapter, AdditiveAdapter, BadAdapter

SMALLEST_NORM = 1e-12  # a zero row has no direction; it stays zero


@dataclass(frozen=True, slots=True, eq=False)
class Magnitude(Adapter):
    """delta = magnitude * (weight + base) / ||weight + base|| - weight, norms along the magnitude's other axes.

    Linear in strength between the weight (0) and the trained layer (1). Source: Liu et al. 2024 (arXiv 2402.09353)
    eq. 5, without its detached gradient, which is for training alone; axes as in LyCORIS 4.1 and PEFT 0.21.2.
    """

    base: AdditiveAdapter
    magnitude: Tensor  # [out, 1, ...] or [1, in, ...]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        changed = weight + self.base.delta().to(weight.device).reshape(weight.shape)
        magnitude = self.magnitude.to(weight.device).float()
        axes = [axis for axis in range(weight.dim()) if magnitude.shape[axis] == 1]
        norm = changed.square().sum(dim=axes, keepdim=True).sqrt().clamp_min(SMALLEST_NORM)
        return changed.mul_(magnitude / norm).sub_(weight)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Adapter.tensors."""
        return (*self.base.tensors(), self.magnitude)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "Magnitude":
        """See Adapter.with_tensors."""
        base = self.base.with_tensors(tensors[:-1])
        assert isinstance(base, AdditiveAdapter)  # the same class as before
        return replace(self, base=base, magnitude=tensors[-1])


def with_magnitude(base: Adapter, magnitude: Tensor, shape: tuple[int, ...]) -> Magnitude:
    """The adapter with its magnitudes. Raises BadAdapter if they fit neither the outputs nor the inputs.

    A first side of 1 means per input; everything else, one-dimensional magnitudes too, means per output.
    """
    if not isinstance(base, AdditiveAdapter):
        raise BadAdapter("magnitudes (DoRA) came with an algorithm that depends on the weight")
    per_input = magnitude.dim() > 1 and magnitude.shape[0] == 1 and shape[1:2] == (magnitude.numel(),)
    if not per_input and magnitude.numel() != shape[0]:
        raise BadAdapter(
            f"shape mismatch: the layer is {list(shape)}, so magnitudes [{shape[0]}, 1] or [1, {shape[1:2]}] were "
            f"expected; found {list(magnitude.shape)}"
        )
    ones = [1] * len(shape)
    ones[1 if per_input else 0] = magnitude.numel()
    return Magnitude(base, magnitude.reshape(ones))
