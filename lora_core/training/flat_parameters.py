"""All trained numbers in one buffer, so that an optimiser step, a norm and a reset are a few operations each."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatParameters:
    """Parameters whose data and gradients are views of two float32 buffers."""

    def __init__(self, groups: Sequence[Sequence[Sequence[int]]], device: torch.device) -> None:
        """groups: the shapes of each group of parameters, which lie together in the buffers."""
        sizes = [[torch.Size(shape).numel() for shape in shapes] for shapes in groups]
        self.whole = nn.Parameter(torch.zeros(sum(map(sum, sizes)), device=device))
        self.whole.grad = torch.zeros_like(self.whole)
        self.groups = self._views([(sum(of_group),) for of_group in sizes])  # each as one parameter
        self.views = self._views([shape for shapes in groups for shape in shapes])

    def _views(self, shapes: Sequence[Sequence[int]]) -> list[nn.Parameter]:
        sizes = [torch.Size(shape).numel() for shape in shapes]
        parts = torch.split(self.whole.detach(), sizes)
        gradients = torch.split(self.gradient, sizes)
        return [_view(part, gradient, shape) for part, gradient, shape in zip(parts, gradients, shapes, strict=True)]

    @property
    def gradient(self) -> Tensor:
        """Of all parameters, [numbers]."""
        assert self.whole.grad is not None
        return self.whole.grad

    def clip(self, norm: float) -> Tensor:
        """Scale the gradient down to a norm, if it is longer; the norm it had. As torch's clip_grad_norm_."""
        found = self.gradient.square().sum().sqrt()
        if norm > 0:
            self.gradient.mul_(torch.clamp(norm / (found + 1e-6), max=1.0))
        return found


def _view(part: Tensor, grad: Tensor, shape: Sequence[int]) -> nn.Parameter:
    parameter = nn.Parameter(part.view(*shape))
    parameter.grad = grad.view(*shape)  # autograd adds to it in place
    return parameter
