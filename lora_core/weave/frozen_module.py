"""A host's frozen module as adapters see it: its weight, and its output with another weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}
RMS_NORMS = (nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()  # since torch 2.4
LAST_AXIS_NORMS = (nn.LayerNorm, *RMS_NORMS)
NORMS = (nn.GroupNorm, *LAST_AXIS_NORMS)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a Linear layer: torch's, or a quantised one that only looks and computes like it."""
    return isinstance(module, nn.Linear) or all(hasattr(module, name) for name in ("in_features", "out_features"))


def is_plain_convolution(module: nn.Module) -> bool:
    if not isinstance(module, tuple(CONVOLUTIONS)):
        return False
    return module.groups == 1 and module.padding_mode == "zeros"


@dataclass(frozen=True, slots=True, eq=False)
class ModuleAsFrozen:
    """A torch module, or a host's subclass of one, as the FrozenLayer that branches stand beside."""

    module: nn.Module
    plain: Tensor | None = None  # the output without bias for `x`, where it is known
    x: Tensor | None = None

    def weight(self) -> Tensor:
        """See FrozenLayer.weight."""
        return dense_weight(self.module)

    def linear(self, x: Tensor) -> Tensor:
        """See FrozenLayer.linear; by the module's own, perhaps quantised, product."""
        if x is self.x and self.plain is not None:
            return self.plain
        forward = type(self.module).forward
        return without_bias(forward(self.module, x), self.module)

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """See FrozenLayer.apply."""
        weight = weight.to(x)
        if isinstance(self.module, NORMS):
            return _normed(self.module, weight, x)
        return functional.linear(x, weight) if is_linear(self.module) else convolved(self.module, weight, x)


def dense_weight(module: nn.Module) -> Tensor:
    """A float32 copy of a module's weight, dequantised if it is of a quantised type."""
    weight: Any = module.weight
    dequantise = getattr(weight, "dequantize", None)
    if dequantise is not None and type(weight) not in (Tensor, nn.Parameter):
        weight = dequantise()
    scale = getattr(module, "scale_weight", None)
    dense = weight.detach().float()
    return dense * scale.to(dense) if isinstance(scale, Tensor) else dense.clone()


def without_bias(y: Tensor, module: nn.Module) -> Tensor:
    bias = getattr(module, "bias", None)
    if bias is None:
        return y.clone()
    return y - bias.to(y).reshape(-1, *[1] * (0 if channel_axis(module) == -1 else y.dim() - 2))


def channel_axis(module: nn.Module) -> int:
    """The axis of the outputs' channels."""
    return -1 if is_linear(module) or isinstance(module, LAST_AXIS_NORMS) else 1


def _normed(module: Any, weight: Tensor, x: Tensor) -> Tensor:
    """The input normed as the module does it, times another weight, without bias."""
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(x, module.num_groups, weight, None, module.eps)
    if isinstance(module, nn.LayerNorm):
        return functional.layer_norm(x, module.normalized_shape, weight, None, module.eps)
    return functional.rms_norm(x, module.normalized_shape, weight, module.eps)


def convolved(module: Any, weight: Tensor, x: Tensor) -> Tensor:
    """A convolution of another weight [out, in, *kernel], without bias, with the module's stride, padding, dilation."""
    return convolution_of(module)(x, weight, None, module.stride, module.padding, module.dilation)


def convolution_of(module: nn.Module) -> Callable[..., Tensor]:
    return next(function for kind, function in CONVOLUTIONS.items() if isinstance(module, kind))
