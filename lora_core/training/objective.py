"""What a denoiser is trained to say: how pictures are noised, and what the right answer is, by kind of model.

Notation: x0 the clean latent, n the noise, s = sigma the noise level, all in the model's own scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA = 5.0  # of min-SNR, as its paper recommends


@dataclass(frozen=True, slots=True)
class Objective:
    """One kind of model. All functions take sigma as [batch, *ones]."""

    name: str
    noisy: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x0, n, sigma) -> what the host's sampler would hold
    target: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x0, n, sigma) -> the model's right output
    min_snr: Callable[[Tensor], Tensor]  # sigma -> weight of the squared error of the output
    timesteps: str  # the distribution that "auto" stands for, see timesteps.TIMESTEPS


def _added(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return x0 + sigma * noise


def _mixed(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return (1 - sigma) * x0 + sigma * noise


def _snr(sigma: Tensor) -> Tensor:
    return sigma.double().pow(-2).to(sigma.dtype)


# eps:  x = x0 + s n, output n (Ho et al. 2020, arXiv 2006.11239); min-SNR weight min(SNR, g) / SNR.
# v:    output (n - s x0) / sqrt(1 + s^2) (Salimans & Ho 2022, arXiv 2202.00512); min(SNR, g) / (SNR + 1).
# flow: x = (1 - s) x0 + s n, output n - x0 (Lipman et al. 2022, arXiv 2210.02747); all weights 1.
# min-SNR: Hang et al. 2023 (arXiv 2303.09556), eq. 6 for each kind of output; SNR = 1 / s^2.
OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            "eps",
            _added,
            lambda x0, noise, sigma: noise,
            lambda sigma: _snr(sigma).clamp(max=GAMMA) / _snr(sigma),
            "uniform",
        ),
        Objective(
            "v",
            _added,
            lambda x0, noise, sigma: (noise - sigma * x0) / (1 + sigma**2).sqrt(),
            lambda sigma: _snr(sigma).clamp(max=GAMMA) / (_snr(sigma) + 1),
            "uniform",
        ),
        Objective("flow", _mixed, lambda x0, noise, sigma: noise - x0, torch.ones_like, "logit-normal"),
    )
}

WEIGHTINGS: Mapping[str, Callable[[Objective, Tensor], Tensor]] = {
    "min-snr": lambda objective, sigma: objective.min_snr(sigma),
    "none": lambda objective, sigma: torch.ones_like(sigma),
}


def errors(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each picture of a batch, [batch], in float32."""
    return (output.float() - target.float()).square().flatten(1).mean(dim=1)
