"""Merges that keep or drop single entries of the deltas. They work in the core space, so the result stays low-rank."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..deltas.factored import Factored
from .core_space import core_space
from .layer_deltas import LayerDeltas, MergeSettings

Thin = Callable[[Tensor, MergeSettings, torch.Generator], Tensor]  # core -> core with entries dropped
Join = Callable[[Sequence[Tensor]], Tensor]


def merged_in_core(sources: LayerDeltas, settings: MergeSettings, thin: Thin, join: Join) -> Factored:
    """Thin out every source's core, then join them."""
    space = core_space(sources.deltas)
    thinned = [thin(core, settings, sources.draw(settings.seed, i)) for i, core in enumerate(space.cores)]
    return space.delta(join(thinned))


def keep_largest(core: Tensor, settings: MergeSettings, generator: torch.Generator) -> Tensor:
    """The share `density` of the entries with the largest magnitudes; the others are 0."""
    count = math.ceil(settings.density * core.numel())
    if count >= core.numel():
        return core
    kept = torch.topk(core.abs().flatten(), count, sorted=False).indices
    thinned = torch.zeros_like(core).flatten()
    thinned[kept] = core.flatten()[kept]
    return thinned.reshape(core.shape)


def drop_and_rescale(core: Tensor, settings: MergeSettings, generator: torch.Generator) -> Tensor:
    """Each entry with the probability `density`, divided by it, so that the mean over seeds is the core.

    Source: Yu et al. 2023 (arXiv 2311.03099) eq. 2.
    """
    return _sampled(core, torch.full_like(core, settings.density), generator)


def drop_by_rank_and_rescale(core: Tensor, settings: MergeSettings, generator: torch.Generator) -> Tensor:
    """As drop_and_rescale, an entry's probability rising with the rank of its magnitude in its row.

    From density - spread / 2 for the smallest to density + spread / 2 for the largest.
    Source: Deep et al. 2024 (arXiv 2406.11617) sec. 3.1.
    """
    inputs = core.shape[1]
    ranks = core.abs().argsort(dim=1).argsort(dim=1).to(core.dtype)
    shares = ranks / (inputs - 1) if inputs > 1 else torch.full_like(core, 0.5)
    return _sampled(core, settings.density + (shares - 0.5) * settings.spread, generator)


def _sampled(core: Tensor, keep: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(core.shape, generator=generator, dtype=core.dtype)
    return torch.where(drawn < keep, core / keep, torch.zeros_like(core))


def add_up(cores: Sequence[Tensor]) -> Tensor:
    """The sum."""
    return torch.stack(list(cores)).sum(dim=0)


def add_agreeing(cores: Sequence[Tensor]) -> Tensor:
    """The sum of those entries whose sign is that of the sum of all: the sign with more total magnitude is elected.

    The strengths are in the entries, so a negative one votes for the other sign. The paper takes the mean of the
    entries that agree and multiplies it by a number to be tuned; the sum needs none, and keeps the strengths' meaning.
    Source: Yadav et al. 2023 (arXiv 2306.01708) sec. 3.
    """
    stacked = torch.stack(list(cores))
    elected = stacked.sum(dim=0).sign()
    return torch.where(stacked.sign() == elected, stacked, torch.zeros_like(stacked)).sum(dim=0)
