"""What training needs of a host's model, whatever the host is."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..names.target_layer import ModelLayout
from .dataset import TrainSample
from .objective import Noising


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the model's device."""

    free: int
    total: int


class Denoiser(Protocol):
    """A frozen model that predicts, from noisy latents, what its objective asks for."""

    layout: ModelLayout
    noising: Noising  # how its pictures are noised, and what it should say of them
    device: torch.device
    dtype: torch.dtype  # in which its layers compute
    fingerprint: str | None  # equal for equal models; None where that can't be told

    def modules(self) -> dict[str, nn.Module]:
        """Path of a layer, as in the layout -> its module."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """Inside: the model is on its device and autograd can go through it. After: everything as it was found."""
        ...

    def scaled(self, latent: Tensor) -> Tensor:
        """Latents as the VAE gives them -> as the model takes them, of any batch."""
        ...

    def sigmas_at(self, positions: Tensor) -> Tensor:
        """[n] positions on the way from picture (0) to noise (1) -> [n] noise levels that the model was made for."""
        ...

    def conditions(self, samples: Sequence[TrainSample], conditionings: Sequence[Any], shape: torch.Size) -> Any:
        """What the model reads beside a batch of latents of `shape`: one forward, to each picture its own."""
        ...

    def predict(self, noisy: Tensor, sigmas: Tensor, conditions: Any) -> Tensor:
        """The model's own output [batch, channels, *picture] for latents at [batch] noise levels; differentiable."""
        ...

    def differentiable(self) -> AbstractContextManager[None]:
        """Inside, which a step is as a whole, backward pass included: nothing stands in the way of a gradient."""
        ...

    def recomputing(self) -> AbstractContextManager[None]:
        """Inside: the model's blocks recompute their activations in the backward pass."""
        ...

    def memory(self) -> Memory | None:
        """What the device has; None where that can't be told."""
        ...
