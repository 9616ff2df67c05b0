"""Strengths that change over the steps or from image to image: set before each call of the model, put back after it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...lora_core.errors import NotPerImage
from ...lora_core.weave import PlannedLora, Weave, strengths_at
from .cell_by_cell import sample_one_by_one, why_one_by_one

LOG = logging.getLogger(__name__)
WRAPPER = "lora_loom_strengths"
HALVINGS = 24  # of the range of positions, which gives one to 6e-8
DIGITS = 5  # of a position that count: sigmas are float32, and a jump at 0.5 should take the step that begins at 0.5
SIGMAS_KEPT = 1024


def set_moving(patcher: ModelPatcher, weave: Weave, rows: Sequence[PlannedLora]) -> None:
    """Have the rows' strengths follow the steps and the images whenever the patcher's model is sampled with."""
    moving = _Moving(weave, tuple(rows))
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, moving)
    if any(row.images for row in rows):
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, moving.sample)


def clear_moving(patcher: ModelPatcher) -> None:
    """Let all strengths of the patcher stay as they are."""
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE):
        patcher.remove_wrappers_with_key(kind, WRAPPER)


class _Moving:
    """The host's wrapper around each call of the model."""

    def __init__(self, weave: Weave, rows: tuple[PlannedLora, ...]) -> None:
        self._weave = weave
        self._rows = rows
        self._fixed = [row.strength for row in rows]
        self._now = rows  # those of the image that is sampled alone, or all
        self._positions: dict[float, float] = {}  # sigma -> position, of this model's latest runs

    def __call__(self, executor: Any, x: torch.Tensor, t: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Called by the host with the noisy latents [chunks * images, ...] and their sigmas [chunks * images]."""
        chunks = _chunks(arguments, options)
        positions = self._positions_of(executor.class_obj.model_sampling, t, x.shape[0])
        images = self._images_of(x.shape[0] // chunks or x.shape[0])
        self._weave.set_strengths(strengths_at(self._now, positions, images))
        try:
            return executor(x, t, *arguments, **options)
        finally:
            self._weave.set_strengths(self._fixed)

    def sample(
        self, executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *rest: Any, **options: Any
    ) -> Any:
        """Called by the host around a whole run: one batch, or its images one by one where a batch would mix them."""
        mask = options.get("denoise_mask", rest[0] if rest else None)
        if noise.shape[0] == 1 or not (why := why_one_by_one(executor.class_obj, sampler, mask, WRAPPER)):
            return executor(noise, latent, sampler, sigmas, *rest, **options)
        LOG.info("LoRA Loom: the %d images are sampled one by one: %s", noise.shape[0], why)
        try:
            return sample_one_by_one(executor, noise, latent, (sampler, sigmas, *rest), options, mask, self._at_image)
        finally:
            self._now = self._rows

    def _at_image(self, number: int) -> None:
        if wrong := [len(row.images) for row in self._rows if row.images and len(row.images) <= number]:
            raise NotPerImage(wrong[0], number + 1)
        self._now = tuple(replace(row, images=row.images[number : number + 1]) for row in self._rows)

    def _images_of(self, found: int) -> int:
        wrong = [len(row.images) for row in self._now if row.images and len(row.images) != found]
        if wrong:
            raise NotPerImage(wrong[0], found)
        return found

    def _positions_of(self, sampling: Any, t: torch.Tensor, samples: int) -> list[float]:
        if all(row.schedule is None for row in self._rows):
            return [0.0] * samples
        sigmas: list[float] = t.flatten().tolist()  # waits for the device, once in each call
        if len(self._positions) > SIGMAS_KEPT:
            self._positions.clear()
        for sigma in set(sigmas) - set(self._positions):
            self._positions[sigma] = position_of(sampling, sigma)
        found = [self._positions[sigma] for sigma in sigmas]
        return found if len(found) == samples else [found[0]] * samples


def position_of(sampling: Any, sigma: float) -> float:
    """The share of sampling that is done at a sigma, 0 to 1: what the host's `percent_to_sigma` makes this sigma of.

    The host's own start_percent and end_percent mean the same. It falls with the percent, so the range is halved.
    """
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, DIGITS)


def _chunks(arguments: Sequence[Any], options: dict[str, Any]) -> int:
    """How many conds the host batched into one call; 1 where somebody calls the model without telling."""
    told = options.get("transformer_options") or next((one for one in reversed(arguments) if isinstance(one, dict)), {})
    return max(1, len(told.get("cond_or_uncond", ())))
