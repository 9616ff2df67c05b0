"""Changes that a file stores whole: a difference to a weight or a bias, or a weight that takes the other's place."""

from dataclasses import dataclass

from torch import Tensor

from .base import Adapter, AdapterParts, AdditiveAdapter, Builder, Built, FrozenLayer, as_input, as_weight


@dataclass(frozen=True, slots=True, eq=False)
class FullDelta(AdditiveAdapter):
    """delta = scale * difference. A file's `diff`, `w_norm` and biases have scale 1: there is no rank."""

    difference: Tensor  # the parameter's shape
    scale: float = 1.0

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        return self.difference.float() * self.scale


@dataclass(frozen=True, slots=True, eq=False)
class Replacement(Adapter):
    """delta = replacement - weight, so strength 1 is the replacement and strength 0 the weight."""

    replacement: Tensor  # the parameter's shape

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        return self.replacement.to(weight.device).float().reshape(weight.shape) - weight

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch."""
        return layer.apply(as_input(self.replacement.float(), x), x) - plain


def _difference(role: str, algorithm: str) -> Builder:
    def build(parts: AdapterParts) -> Built:
        return Built(adapter=FullDelta(as_weight(parts.tensors[role], parts.shape)), algorithm=algorithm)

    return Builder(algorithm=algorithm, required=frozenset({role}), sides=0, weight_sides=0, build=build)


def _replace(parts: AdapterParts) -> Built:
    adapter = Replacement(as_weight(parts.tensors["set_weight"], parts.shape))
    return Built(adapter=adapter, algorithm="replaced weight")


DIFFERENCE = _difference("diff", "full difference")
MODULATION = _difference("diff_m", "full difference")
NORM = _difference("norm", "norm")
REPLACEMENT = Builder(
    algorithm="replaced weight", required=frozenset({"set_weight"}), sides=0, weight_sides=0, build=_replace
)
