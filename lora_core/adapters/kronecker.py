"""LoKr: the Kronecker product of two matrices, each whole or factored, the second also with a middle tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, as_weight, check_shape
from .tucker import tucker


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker(AdditiveAdapter):
    """delta = scale * kron(w1, w2); w1 = w1_a @ w1_b and w2 = w2_a @ w2_b where they are factored.

    scale = alpha / rank of a factored matrix; 1 when both are whole, since there is no rank then.
    Sources: Yeh et al. 2023 (arXiv 2309.14859) sec. 3.2; LyCORIS 4.1 functional.lokr and modules.lokr.
    """

    scale: float
    shape: tuple[int, ...]  # [a * b, c * d, *kernel] of the weight
    w1: Tensor | None = None  # [a, c]
    w1_a: Tensor | None = None  # [a, rank]
    w1_b: Tensor | None = None  # [rank, c]
    w2: Tensor | None = None  # [b, d, *kernel]
    w2_a: Tensor | None = None  # [b, rank]; [rank, b] with a middle tensor
    w2_b: Tensor | None = None  # [rank, d * kernel]; [rank, d] with a middle tensor
    t2: Tensor | None = None  # [rank, rank, *kernel]

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        first = _matrix(self.w1, self.w1_a, self.w1_b, None)
        second = _matrix(self.w2, self.w2_a, self.w2_b, self.t2)
        kernel = tuple(self.shape[2:])
        if second.dim() == 2 and kernel:  # factored: its columns are d * kernel
            second = second.reshape(second.shape[0], -1, *kernel)
        first = first.reshape(*first.shape, *([1] * (second.dim() - 2)))
        return as_weight(torch.kron(first, second.contiguous()) * self.scale, self.shape)


def _matrix(whole: Tensor | None, a: Tensor | None, b: Tensor | None, middle: Tensor | None) -> Tensor:
    if whole is not None:
        return whole.float()
    if a is None or b is None:
        raise BadAdapter("incomplete: a factored matrix needs both of its factors")
    return torch.mm(a.float(), b.float()) if middle is None else tucker(middle.float(), a.float(), b.float())


def _build(parts: AdapterParts) -> Built:
    given: Mapping[str, Tensor] = {role.removeprefix("lokr_"): tensor for role, tensor in parts.tensors.items()}
    for name in ("w1", "w2"):
        if name not in given and not (f"{name}_a" in given and f"{name}_b" in given):
            raise BadAdapter(f"incomplete: neither lokr_{name} nor both of lokr_{name}_a and lokr_{name}_b")
    factored = given.get("w2_b", given.get("w1_b"))
    rank = None if factored is None else factored.shape[0]
    scale, alpha = (1.0, None) if rank is None else parts.scale(rank)
    adapter = Kronecker(scale, parts.shape, **given)
    check_shape(adapter, parts.shape)
    return Built(adapter=adapter, algorithm="LoKr", rank=rank, alpha=alpha)


BUILDER = Builder(
    algorithm="LoKr",
    required=frozenset(),
    optional=frozenset(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    build=_build,
)
