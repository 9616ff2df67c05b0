"""(IA)3: a factor for every output, or every input, of a layer."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built, FrozenLayer
from .channels import is_plain, scaled


@dataclass(frozen=True, slots=True, eq=False)
class Rescaling(Adapter):
    """delta = weight o (factors - neutral), the factors broadcast over the weight's other sides.

    LyCORIS stores the change (neutral 0), PEFT the factor itself (neutral 1). Sources: Liu et al. 2022
    (arXiv 2205.05638) eq. 1; LyCORIS 4.1 modules.ia3; PEFT 0.21.2 tuners.ia3.
    """

    factors: Tensor  # [out, 1, ...], [1, in, 1, ...], or [out] for a bias
    neutral: float
    per_input: bool = False

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        return weight * (self.factors.to(weight.device).float() - self.neutral)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: outputs times factors, or the layer's own operation on inputs times factors."""
        shape = tuple(self.factors.shape)
        change = self.factors.float().flatten() - self.neutral
        if not self.per_input:
            return scaled(change, plain, shape)
        if not is_plain(shape, x):
            return Adapter.branch(self, x, plain, layer)
        return layer.linear(scaled(change, x, shape))


def _along(factors: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    if shape[axis : axis + 1] != (factors.numel(),):
        raise BadAdapter(f"shape mismatch: the layer is {list(shape)}, the factors are {list(factors.shape)}")
    sides = [1] * len(shape)
    sides[axis] = factors.numel()
    return factors.reshape(sides)


def _build_lycoris(parts: AdapterParts) -> Built:
    on_input = parts.tensors["on_input"]
    inputs = bool(on_input.item()) if not on_input.is_meta else parts.tensors["ia3_weight"].numel() != parts.shape[0]
    factors = _along(parts.tensors["ia3_weight"], parts.shape, 1 if inputs else 0)
    return Built(adapter=Rescaling(factors, 0.0, inputs), algorithm="IA3")


def _build_peft(parts: AdapterParts) -> Built:
    stored = parts.tensors["ia3_l"]
    if _peft_is_per_input(stored, parts):
        return Built(adapter=Rescaling(_along(stored, parts.shape, 1), 1.0, per_input=True), algorithm="IA3")
    weight = Rescaling(_along(stored, parts.shape, 0), 1.0)
    return Built(adapter=weight, algorithm="IA3", bias=Rescaling(stored.reshape(-1), 1.0))


def _peft_is_per_input(stored: Tensor, parts: AdapterParts) -> bool:
    """Feed-forward layers are scaled per input: [1, in]. Of a convolution both are [1, width, 1, 1]."""
    if stored.dim() <= 2:
        return stored.dim() == 2 and stored.shape[0] == 1 and parts.shape[1:2] == (stored.shape[1],)
    fits = tuple(side == stored.numel() for side in parts.shape[:2])
    if fits != (True, True):
        return fits == (False, True)
    modules = parts.whole.config.get("feedforward_modules")
    if not isinstance(modules, list):
        raise BadAdapter("factors that fit the inputs and the outputs: only adapter_config.json tells which are meant")
    return any(f".{parts.name}".endswith(f".{module}") for module in cast("list[object]", modules))


LYCORIS = Builder(algorithm="IA3", required=frozenset({"ia3_weight", "on_input"}), sides=0, build=_build_lycoris)
PEFT = Builder(algorithm="IA3", required=frozenset({"ia3_l"}), sides=1, build=_build_peft)
