"""Measures what a forward pass keeps for the backward pass, and decides whether a batch of it fits."""

from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Memory

USABLE = 0.8  # of the free memory; the rest is for what comes and goes inside the layers


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps, each storage counted once; parameters are not counted."""
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return sum(seen.values())


def fits(forward: Callable[[], Tensor], batch: int, memory: Memory) -> tuple[int, bool]:
    """(bytes that a batch needs, whether they fit), from a forward pass of one picture."""
    needed = saved_bytes(forward) * batch
    return needed, needed <= USABLE * memory.free
