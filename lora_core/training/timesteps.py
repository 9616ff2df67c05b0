"""Where on the way from picture to noise a batch is trained: positions in 0..1, stratified over the batch.

Each of B positions comes from its own B-th of the distribution, which changes no expectation and makes the mean loss of
a batch far less noisy than independent draws.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def _uniform(shares: Tensor) -> Tensor:
    return shares


def _logit_normal(shares: Tensor) -> Tensor:
    """sigmoid(z) of a standard normal z: Esser et al. 2024 (arXiv 2403.03206), section 3.1, m = 0, s = 1."""
    special: Any = torch.special
    return torch.sigmoid(special.ndtri(shares.double().clamp(1e-6, 1 - 1e-6))).float()


TIMESTEPS: Mapping[str, Callable[[Tensor], Tensor]] = {"uniform": _uniform, "logit-normal": _logit_normal}


def positions(count: int, name: str, generator: torch.Generator) -> Tensor:
    """[count] positions, 0 the clean picture and 1 pure noise, in no order."""
    shares = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return TIMESTEPS[name](shares)
