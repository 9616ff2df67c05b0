"""Samples small pictures through a model as it is at this moment, without taking part in what is done to it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

SAMPLER, SCHEDULER = "euler", "simple"
PREVIEW_SIDE = 512  # pixels, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewOrder:
    """How pictures are sampled."""

    steps: int = 14
    cfg: float = 4.0  # factor without unit
    seed: int = 0


def is_cancelled() -> bool:
    """Whether a person asked the host to end the run. The host acts on it at the next node."""
    return comfy.model_management.processing_interrupted()


def raise_if_cancelled() -> None:
    """End the node as the host ends cancelled ones."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def step_bar(total: int) -> Callable[[int, Any], None]:
    """Shows how many steps are done, perhaps with a picture (PIL); unlike `progress`, never ends the run."""
    bar = comfy.utils.ProgressBar(total)

    def show(done: int, picture: Any) -> None:
        with keeping_the_wish():
            bar.update_absolute(done, total, picture and ("JPEG", picture, PREVIEW_SIDE))

    return show


@contextmanager
def keeping_the_wish() -> Generator[None]:
    """The host ends a cancelled run from within its samplers and bars, and forgets the wish; here it stays."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        comfy.model_management.interrupt_current_processing()


def sample(
    model: ModelPatcher, prompt: Any, empty: Any, shape: Sequence[int], order: PreviewOrder, pictures: int = 1
) -> Tensor | None:
    """Latents [pictures, channels, *picture], as the VAE decodes them; None when the run was cancelled meanwhile.

    Args:
        model: sampled as it is, with whatever acts beside its layers.
        prompt: conditioning.
        empty: conditioning of the negative prompt.
        shape: of one latent, [channels, *picture].
        order: the first picture has its seed, the next ones the seeds after it.
        pictures: how many.
    """
    seeds = range(order.seed, order.seed + pictures)
    state = torch.random.get_rng_state()
    try:
        with keeping_the_wish():
            nothing = torch.zeros(1, *shape)
            host: Any = comfy.sample
            noise = torch.cat([host.prepare_noise(nothing, seed) for seed in seeds])
            return comfy.sample.sample(
                model,
                noise,
                order.steps,
                order.cfg,
                SAMPLER,
                SCHEDULER,
                prompt,
                empty,
                nothing.repeat(pictures, *[1] * len(shape)),
                disable_pbar=True,
                seed=order.seed,
            )
        return None
    finally:
        torch.random.set_rng_state(state)
