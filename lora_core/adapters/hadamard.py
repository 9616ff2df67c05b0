"""LoHa: the element-wise product of two low-rank matrices, also with middle tensors (Tucker)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, as_weight, check_shape
from .tucker import tucker


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard(AdditiveAdapter):
    """delta = scale * (w1_a @ w1_b) o (w2_a @ w2_b), with scale = alpha / rank.

    With middle tensors each factor is tucker(t, w_a, w_b), and w_a is stored as [rank, out].
    Sources: Hyeon-Woo et al. 2021 (arXiv 2108.06098) eq. 3; LyCORIS 4.1 functional.loha.
    """

    w1_a: Tensor  # [out, rank]
    w1_b: Tensor  # [rank, in * kernel]
    w2_a: Tensor  # [out, rank]
    w2_b: Tensor  # [rank, in * kernel]
    scale: float  # alpha / rank
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    t1: Tensor | None = None  # [rank, rank, *kernel]
    t2: Tensor | None = None  # [rank, rank, *kernel]

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        first = _factor(self.t1, self.w1_a, self.w1_b)
        return as_weight(first * _factor(self.t2, self.w2_a, self.w2_b) * self.scale, self.shape)


def _factor(middle: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    if middle is None:
        return torch.mm(a.float(), b.float())
    return tucker(middle.float(), a.float(), b.float())


def _build(parts: AdapterParts) -> Built:
    roles = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    w1_a, w1_b, w2_a, w2_b = (parts.tensors[role] for role in roles)
    rank = w1_b.shape[0]
    if rank == 0:
        raise BadAdapter("rank 0")
    scale, alpha = parts.scale(rank)
    middles = parts.tensors.get("hada_t1"), parts.tensors.get("hada_t2")
    if (middles[0] is None) != (middles[1] is None):
        raise BadAdapter("incomplete: one of the two middle tensors hada_t1, hada_t2 is missing")
    adapter = Hadamard(w1_a, w1_b, w2_a, w2_b, scale, parts.shape, *middles)
    check_shape(adapter, parts.shape)
    return Built(adapter=adapter, algorithm="LoHa", rank=rank, alpha=alpha)


BUILDER = Builder(
    algorithm="LoHa",
    required=frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
    optional=frozenset({"hada_t1", "hada_t2"}),
    build=_build,
)
