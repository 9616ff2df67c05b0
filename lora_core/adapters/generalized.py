"""GLoRA: a low-rank change of the weight's inputs beside a low-rank delta."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built


@dataclass(frozen=True, slots=True, eq=False)
class Generalized(Adapter):
    """delta = scale * (weight @ a_in @ a_out + b_up @ b_down), with scale = alpha / rank.

    Sources: Chavan et al. 2023 (arXiv 2306.07967) eq. 2; LyCORIS 4.1 modules.glora.
    """

    a_in: Tensor  # [in, rank]
    a_out: Tensor  # [rank, in]
    b_up: Tensor  # [out, rank]
    b_down: Tensor  # [rank, in * kernel]
    scale: float  # alpha / rank

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        a_in, a_out, b_up, b_down = (tensor.to(weight.device).float() for tensor in self.tensors())
        rotated = torch.einsum("oi...,ij->oj...", weight, torch.mm(a_in, a_out))
        return (rotated + torch.mm(b_up, b_down).reshape(weight.shape)) * self.scale


def _build(parts: AdapterParts) -> Built:
    a1, a2, b1, b2 = (parts.tensors[role].flatten(1) for role in ("a1", "a2", "b1", "b2"))
    out, inputs = parts.shape[0], math.prod(parts.shape[1:2])
    if a1.shape[0] != inputs or b1.shape[0] != out:  # files of LyCORIS before 1.9 have the pairs the other way round
        a1, a2, b1, b2 = a2, a1, b2, b1
    rank = a1.shape[1]
    width = math.prod(parts.shape[1:])
    found = (tuple(a1.shape), tuple(a2.shape), tuple(b1.shape), tuple(b2.shape))
    if rank == 0 or found != ((inputs, rank), (rank, inputs), (out, rank), (rank, width)):
        raise BadAdapter(f"shape mismatch: the layer is {list(parts.shape)}; found a1, a2, b1, b2 {found}")
    scale, alpha = parts.scale(rank)
    return Built(adapter=Generalized(a1, a2, b1, b2, scale), algorithm="GLoRA", rank=rank, alpha=alpha)


BUILDER = Builder(algorithm="GLoRA", required=frozenset({"a1", "a2", "b1", "b2"}), build=_build)
