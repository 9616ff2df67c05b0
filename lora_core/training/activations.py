"""Measures what a forward pass keeps for the backward pass, and decides whether a batch of it fits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .batches import Batch, Batches
from .dataset import TrainSample
from .denoiser import Denoiser, Memory
from .settings import AUTO, ON, TrainSettings

USABLE = 0.8  # of the free memory; the rest is for what comes and goes inside the layers


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps, each storage counted once; parameters are not counted."""
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # what a step of the graph gave would hold that step, and nobody ever lets go of both

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return sum(seen.values())


def fits(forward: Callable[[], Tensor], batch: int, memory: Memory) -> tuple[int, bool]:
    """(bytes that a batch needs, whether they fit), from a forward pass of one picture."""
    needed = saved_bytes(forward) * batch
    return needed, needed <= USABLE * memory.free


def should_recompute(
    denoiser: Denoiser, samples: Sequence[TrainSample], settings: TrainSettings, loss: Callable[[Batch], Tensor]
) -> tuple[bool, str]:
    """(whether activations are recomputed: as asked, or where they would not fit; what a person should know of it)."""
    if settings.checkpointing != AUTO:
        return settings.checkpointing == ON, ""
    memory = denoiser.memory()
    if memory is None:
        return False, ""
    largest = max(range(len(samples)), key=lambda number: samples[number].latent.numel())
    probe = Batches([samples[largest]], 1, settings.seed, "uniform", 0.0).next()
    probe = replace(probe, numbers=[largest])
    try:
        with torch.inference_mode(False), torch.enable_grad(), denoiser.differentiable():
            needed, enough = fits(lambda: loss(probe), settings.batch, memory)
    except torch.OutOfMemoryError:
        return True, "gradient checkpointing is on: the activations of one picture do not fit"
    gigabytes = f"{needed / 1024**3:.2f} GiB of activations, {memory.free / 1024**3:.2f} GiB free"
    return not enough, f"gradient checkpointing is {'off' if enough else 'on'}: {gigabytes}"
