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
    """One kind of model. All functions take sigma as [batch, *ones]; d is the deviation of the pictures it expects."""

    name: str
    noisy: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x0, n, sigma) -> what the host's sampler would hold
    target: Callable[[Tensor, Tensor, Tensor, float], Tensor]  # (x0, n, sigma, d) -> the model's right output
    min_snr: Callable[[Tensor, float], Tensor]  # (sigma, d) -> weight of the squared error of the output
    timesteps: str  # the distribution that "auto" stands for, see timesteps.TIMESTEPS


def _added(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return x0 + sigma * noise


def _mixed(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return (1 - sigma) * x0 + sigma * noise


def _scaled(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return (x0 + sigma * noise) / (1 + sigma**2).sqrt()


def _velocity(x0: Tensor, noise: Tensor, sigma: Tensor, data: float) -> Tensor:
    return (data**2 * noise - sigma * x0) / (data * (data**2 + sigma**2).sqrt())


def _snr(sigma: Tensor, data: float) -> Tensor:
    return (data / sigma.double()).square().to(sigma.dtype)


def _even(sigma: Tensor, data: float) -> Tensor:
    return torch.ones_like(sigma)


def _capped(sigma: Tensor, data: float) -> Tensor:
    return _snr(sigma, data).clamp(max=GAMMA)


# eps:  x = x0 + s n, output n (Ho et al. 2020, arXiv 2006.11239); min-SNR weight min(SNR, g) / SNR.
# v:    output (d^2 n - s x0) / (d sqrt(d^2 + s^2)) (Salimans & Ho 2022, arXiv 2202.00512); min(SNR, g) / (SNR + 1).
# edm:  output -v: of even size at all levels (Karras et al. 2022, arXiv 2206.00364, table 1); all weights 1.
# x0:   output x0; min(SNR, g).
# flow: x = (1 - s) x0 + s n, output n - x0 (Lipman et al. 2022, arXiv 2210.02747); all weights 1. The same of
#       pictures with added noise, which the model sees divided by 1 + s, at time s / (1 + s) (Cosmos-Predict2).
# min-SNR: Hang et al. 2023 (arXiv 2303.09556), eq. 6 for each kind of output; SNR = d^2 / s^2.
OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("eps", _added, lambda x0, n, s, d: n, lambda s, d: _capped(s, d) / _snr(s, d), "uniform"),
        Objective("v", _added, _velocity, lambda s, d: _capped(s, d) / (_snr(s, d) + 1), "uniform"),
        Objective("v of scaled input", _scaled, _velocity, lambda s, d: _capped(s, d) / (_snr(s, d) + 1), "uniform"),
        Objective("edm", _added, lambda x0, n, s, d: -_velocity(x0, n, s, d), _even, "logit-normal"),
        Objective("x0", _added, lambda x0, n, s, d: x0, _capped, "uniform"),
        Objective("flow", _mixed, lambda x0, n, s, d: n - x0, _even, "logit-normal"),
        Objective("flow of added noise", _added, lambda x0, n, s, d: n - x0, _even, "logit-normal"),
    )
}


@dataclass(frozen=True, slots=True)
class NoisedBatch:
    """Pictures on their way to noise, and what the model should say of them; all [batch, channels, *picture]."""

    noisy: Tensor
    target: Tensor
    weights: Tensor  # [batch, *ones], of the squared errors


@dataclass(frozen=True, slots=True)
class Noising:
    """How one model's pictures are noised, and how its errors count."""

    objective: Objective
    data_scale: float = 1.0  # deviation of the pictures that the model was made for
    noise_scale: float = 1.0  # deviation of the noise that it mixes into pictures

    def __call__(self, x0: Tensor, noise: Tensor, sigmas: Tensor, weighting: str) -> NoisedBatch:
        """x0 and noise of unit deviation [batch, channels, *picture], sigmas [batch]."""
        wide, n = sigmas.reshape(-1, *[1] * (x0.dim() - 1)), noise * self.noise_scale
        return NoisedBatch(
            self.objective.noisy(x0, n, wide),
            self.objective.target(x0, n, wide, self.data_scale),
            WEIGHTINGS[weighting](self.objective, wide, self.data_scale),
        )


UNWEIGHTED = "none"
WEIGHTINGS: Mapping[str, Callable[[Objective, Tensor, float], Tensor]] = {
    "min-snr": lambda objective, sigma, data: objective.min_snr(sigma, data),
    UNWEIGHTED: lambda objective, sigma, data: torch.ones_like(sigma),
}


def errors(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each picture of a batch, [batch], in float32."""
    return (output.float() - target.float()).square().flatten(1).mean(dim=1)
