"""The trained branch beside one frozen layer."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..weave.frozen_module import convolved, is_linear


class AddLowRank(torch.autograd.Function):
    """y + scale * (x down^T) up^T, keeping x and the narrow product for the backward pass, and nothing else.

    With g the gradient of the result and h = x down^T: d up = scale g^T h, d down = scale (g up)^T x,
    d x = scale (g up) down, d y = g.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """x [n, in], y [n, out], down [rank, in], up [out, rank]."""
        hidden = x @ down.t()
        ctx.save_for_backward(x, hidden, down, up)
        ctx.scale = scale
        return torch.addmm(y, hidden, up.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        (gradient,) = gradients
        x, hidden, down, up = ctx.saved_tensors
        inner = (gradient @ up).mul_(ctx.scale)
        to_x = inner @ down if ctx.needs_input_grad[0] else None
        return to_x, gradient, inner.t() @ x, (gradient.t() @ hidden).mul_(ctx.scale), None


class TrainableLayer(nn.Module):
    """h = W x + scale * up down x beside a frozen W, as it stands in an Injection; only down and up are trained.

    Source: Hu et al. 2021 (arXiv 2106.09685), eq. 3.
    """

    def __init__(self, down: nn.Parameter, up: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.down = down  # [rank, in, *kernel], float32
        self.up = up  # [out, rank, *ones], float32
        self.scale = scale
        self.is_on = True

    def forget_weight(self) -> None:
        """Nothing of the layer's weight is kept here."""

    def forward(self, x: Tensor, y: Tensor, module: nn.Module) -> Tensor:
        """The layer's output y with the branch; x and y as the layer has them, [..., in] or [batch, in, *picture]."""
        if not self.is_on:
            return y
        down, up = self.down.to(x), self.up.to(y)  # a text encoder may be on another device than the denoiser
        if not is_linear(module):
            hidden = convolved(module, down, x)
            return y + torch.einsum("or,br...->bo...", up.flatten(1), hidden) * self.scale
        add: Callable[..., Tensor] = cast("Any", AddLowRank).apply
        return add(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), down, up, self.scale).view(y.shape)
