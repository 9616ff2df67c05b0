"""Strengths that change over the steps or from image to image: set before each call of the model, put back after it."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...lora_core.errors import NotPerImage
from ...lora_core.weave import PlannedLora, Weave, strengths_at

WRAPPER = "lora_loom_strengths"
HALVINGS = 24  # of the range of positions, which gives one to 6e-8
DIGITS = 5  # of a position that count: sigmas are float32, and a jump at 0.5 should take the step that begins at 0.5
SIGMAS_KEPT = 1024


def set_moving(patcher: ModelPatcher, weave: Weave, rows: Sequence[PlannedLora]) -> None:
    """Have the rows' strengths follow the steps and the images whenever the patcher's model is sampled with."""
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, _Moving(weave, tuple(rows)))


def clear_moving(patcher: ModelPatcher) -> None:
    """Let all strengths of the patcher stay as they are."""
    patcher.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, WRAPPER)


class _Moving:
    """The host's wrapper around each call of the model."""

    def __init__(self, weave: Weave, rows: tuple[PlannedLora, ...]) -> None:
        self._weave = weave
        self._rows = rows
        self._fixed = [row.strength for row in rows]
        self._positions: dict[float, float] = {}  # sigma -> position, of this model's latest runs

    def __call__(self, executor: Any, x: torch.Tensor, t: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Called by the host with the noisy latents [chunks * images, ...] and their sigmas [chunks * images]."""
        chunks = _chunks(arguments, options)
        positions = self._positions_of(executor.class_obj.model_sampling, t, x.shape[0])
        images = self._images_of(x.shape[0] // chunks or x.shape[0])
        self._weave.set_strengths(strengths_at(self._rows, positions, images))
        try:
            return executor(x, t, *arguments, **options)
        finally:
            self._weave.set_strengths(self._fixed)

    def _images_of(self, found: int) -> int:
        wrong = [len(row.images) for row in self._rows if row.images and len(row.images) != found]
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
