"""Low-rank branches beside frozen layers, for training: h = W x + alpha / rank * B A x, only A and B trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")  # without it, a model as small as this learns neither style nor shape
UNET_TARGETS = (*ATTENTION, *FEED_FORWARD)
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Size:
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Branch(nn.Module):
    """down (A) [rank, in] is drawn Kaiming-uniform, up (B) [out, rank] begins at zero, and so does the branch."""

    def __init__(self, layer: nn.Linear, size: Size, rng: torch.Generator) -> None:
        super().__init__()
        bound = layer.in_features**-0.5  # of kaiming_uniform_ with a = sqrt(5)
        drawn = torch.rand(size.rank, layer.in_features, generator=rng) * 2 * bound - bound
        self.down, self.up = nn.Parameter(drawn), nn.Parameter(torch.zeros(layer.out_features, size.rank))
        self.scale = size.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def branches_for(model: nn.Module, targets: tuple[str, ...], size: Size, rng: torch.Generator) -> dict[str, Branch]:
    """Path of each layer whose name ends in one of `targets` -> its new branch."""
    return {
        path: Branch(layer, size, rng)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and path.endswith(tuple(f".{target}" for target in targets))
    }


@contextmanager
def attached(model: nn.Module, branches: dict[str, Branch]) -> Iterator[None]:
    """Inside: each layer's output has its branch's added. On exit the layers are as before."""
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _layer, inputs, output, b=branch: output + b(inputs[0]))
        for path, branch in branches.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
