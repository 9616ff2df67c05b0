"""What a tiny model of one family consists of: the host's class for it, its sizes, a latent and a caption's say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LENGTH = -1  # in a shape: tokens of the caption
Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model; a host without its class, or without a setting of its config, does not have it."""

    host_class: str  # in comfy.supported_models
    config: Mapping[str, Any]  # of the denoiser
    latent: tuple[int, ...]  # [channels, *picture], as its VAE gives it
    width: int = 64  # of a token
    options: Mapping[str, Draw] = field(default_factory=dict[str, Draw])  # beside the tokens
    lengths: tuple[int, int] = (7, 12)  # of two captions
    newer: Mapping[str, Any] = field(default_factory=dict[str, Any])  # settings that only the current host has
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # that the model's constructor asks for

    def conditioning(self, length: int) -> list[Any]:
        """A caption of so many tokens, as a host's CLIP says it."""
        rng = torch.Generator().manual_seed(100 + length)
        tokens = torch.randn(1, length, self.width, generator=rng)
        said: dict[str, Any] = {"pooled_output": None}
        said |= {name: draw(length, rng) for name, draw in self.options.items()}
        return [[tokens, said]]


def normal(*shape: int) -> Draw:
    """Numbers of this shape, in which LENGTH stands for the tokens of the caption."""
    return lambda length, rng: torch.randn([length if side == LENGTH else side for side in shape], generator=rng)


def whole(*shape: int, below: int = 99) -> Draw:
    """Whole numbers."""
    return lambda length, rng: torch.randint(
        0, below, [length if side == LENGTH else side for side in shape], generator=rng
    )


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Draw:
    """Ones."""
    return lambda length, rng: torch.ones([length if side == LENGTH else side for side in shape], dtype=dtype)


def masked(length: int, rng: torch.Generator) -> Tensor:
    """A mask [1, tokens] that leaves out the last two."""
    return torch.cat([torch.ones(1, length - 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long)], dim=1)
