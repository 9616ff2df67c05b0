"""How well the model does on a fixed grid of pictures, noise levels and noises, against how well it did at first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dataset import TrainSample
from .denoiser import Denoiser
from .objective import UNWEIGHTED, errors

PICTURES = 8  # of the set, evenly chosen
POSITIONS = (0.125, 0.375, 0.625, 0.875)  # see timesteps
SEED = 20_260_101  # of the noises: the same in every run, whatever its seed
PATIENCE = 3  # evaluations without a better one after which stopping is suggested
LEAST_GAIN = 0.002  # share of the best value that counts as better


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One fixed question."""

    sample: TrainSample
    position: float
    noise: Tensor  # [channels, *picture]


def grid(samples: Sequence[TrainSample], batch: int) -> list[list[Cell]]:
    """The cells: positions of one picture together, and at most `batch`, so that they take no more than a step does."""
    every = max(1, -(-len(samples) // PICTURES))
    rng = torch.Generator().manual_seed(SEED)
    rows = [
        [Cell(sample, position, torch.randn(sample.latent.shape, generator=rng)) for position in POSITIONS]
        for sample in samples[::every]
    ]
    return [row[start : start + batch] for row in rows for start in range(0, len(row), batch)]


@dataclass(frozen=True, slots=True)
class Validation:
    """Errors of all cells, and what they were before the training."""

    errors: Sequence[float]
    at_start: Sequence[float]

    @property
    def relative(self) -> float:
        """Mean over the cells of error / error at the start: 1 is no change, lower is better.

        By cell, since errors at different noise levels differ by orders of magnitude.
        """
        pairs = zip(self.errors, self.at_start, strict=True)
        return sum(now / first if first else 1.0 for now, first in pairs) / len(self.errors)


def cell_errors(
    cells: Sequence[Cell],
    latents: Tensor,
    denoiser: Denoiser,
    conditions_of: Callable[[Sequence[TrainSample], torch.Size], Any],
) -> list[float]:
    """How far off the model is on some cells of one shape, unweighted.

    Args:
        cells: what is asked.
        latents: [cells, channels, *picture], of their samples as the model takes them.
        denoiser: the model.
        conditions_of: what the model reads of some samples beside latents of a shape.
    """
    device = denoiser.device
    noise = torch.stack([cell.noise for cell in cells]).to(device)
    sigmas = denoiser.sigmas_at(torch.tensor([cell.position for cell in cells])).to(device)
    asked = denoiser.noising(latents.to(device), noise, sigmas, UNWEIGHTED)
    with torch.inference_mode(False), torch.no_grad():
        conditions = conditions_of([cell.sample for cell in cells], latents.shape)
        output = denoiser.predict(asked.noisy, sigmas, conditions)
    return [float(error) for error in errors(output, asked.target)]


def suggestion(history: Sequence[tuple[int, float]]) -> str:
    """Why stopping now makes sense, from (step, relative error) of all evaluations; empty while it does not."""
    if len(history) <= PATIENCE:
        return ""
    step, best = min(history[:-PATIENCE], key=lambda entry: entry[1])
    if min(value for _, value in history[-PATIENCE:]) >= best * (1 - LEAST_GAIN):
        return f"No better for {PATIENCE} evaluations than at step {step} ({best:.1%} of the start): stopping is safe."
    return ""
