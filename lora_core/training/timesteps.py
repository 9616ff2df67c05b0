"""Where on the way from picture to noise a batch is trained: positions in 0..1, spread over batch and steps.

Each of B positions comes from its own B-th of the distribution, at a place inside it that walks on by the golden ratio
from step to step: any run of steps covers the whole way evenly, also at B = 1, which changes no expectation and makes
the mean loss far less noisy than independent draws.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, leave the smallest gaps of all numbers


def _uniform(shares: Tensor) -> Tensor:
    return shares


def _logit_normal(shares: Tensor) -> Tensor:
    """sigmoid(z) of a standard normal z: Esser et al. 2024 (arXiv 2403.03206), section 3.1, m = 0, s = 1."""
    special: Any = torch.special
    return torch.sigmoid(special.ndtri(shares.double().clamp(1e-6, 1 - 1e-6))).float()


TIMESTEPS: Mapping[str, Callable[[Tensor], Tensor]] = {"uniform": _uniform, "logit-normal": _logit_normal}


def positions(count: int, name: str, place: float, generator: torch.Generator) -> Tensor:
    """[count] positions, 0 the clean picture and 1 pure noise, in no order; place: in each stratum, see place_at."""
    shares = (torch.randperm(count, generator=generator).double() + place) / count
    return TIMESTEPS[name](shares).float()


def place_at(step: int, start: float) -> float:
    """Where in its stratum a step is trained, 0..1; start: where step 0 would be."""
    return (start + step * GOLDEN) % 1.0
