"""GLoRA: a low-rank change of the weight's inputs beside a low-rank delta."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built, FrozenLayer, as_input
from .channels import is_plain, mixed


@dataclass(frozen=True, slots=True, eq=False)
class Generalized(Adapter):
    """delta = scale * (weight @ a_in @ a_out + b_up @ b_down), with scale = alpha / rank.

    With a middle tensor, b_up @ b_down is the Tucker product of the three, as in LoCon.
    Sources: Chavan et al. 2023 (arXiv 2306.07967) eq. 2; LyCORIS 4.1 modules.glora.
    """

    a_in: Tensor  # [in, rank]
    a_out: Tensor  # [rank, in]
    b_up: Tensor  # [out, rank]
    b_down: Tensor  # [rank, in * kernel], or [rank, in] with a middle tensor
    scale: float  # alpha / rank
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    b_mid: Tensor | None = None  # [rank, rank, *kernel]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        a_in, a_out = self.a_in.to(weight.device).float(), self.a_out.to(weight.device).float()
        turned = torch.einsum("oi...,ij->oj...", weight, torch.mm(a_in, a_out))
        plain = torch.mm(self.b_up.float(), self._wide_down()).to(weight.device)
        return (turned + plain.reshape(weight.shape)) * self.scale

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: the layer's own operation on a low-rank change of the input, beside a LoRA."""
        if not is_plain(self.shape, x):
            return Adapter.branch(self, x, plain, layer)
        inner = mixed(self.a_in.float() * self.scale, mixed(self.a_out, x, self.shape), self.shape)
        down = self._wide_down().reshape(-1, *self.shape[1:])
        outer = mixed(self.b_up.float() * self.scale, layer.apply(as_input(down, x), x), self.shape)
        return layer.linear(inner) + outer

    def _wide_down(self) -> Tensor:
        """The matrix that `b_up` multiplies: [rank, in * kernel], float32."""
        down = self.b_down.float()
        if self.b_mid is None:
            return down
        return torch.einsum("mn...,ni->mi...", self.b_mid.float(), down).flatten(1)


def _build(parts: AdapterParts) -> Built:
    """LyCORIS before 1.9 has both pairs the other way round; told by the sides, and where they don't tell, the new way.

    rs_lora is not folded into GLoRA's alpha, other than into that of LyCORIS' other algorithms.
    """
    a1, a2, b1, b2 = (parts.tensors[role].flatten(1) for role in ("a1", "a2", "b1", "b2"))
    out, inputs = parts.shape[0], math.prod(parts.shape[1:2])
    if a1.shape[0] != inputs or b1.shape[0] != out:
        a1, a2, b1, b2 = a2, a1, b2, b1
    rank, mid = a1.shape[1], parts.tensors.get("bm")
    width = inputs if mid is not None else math.prod(parts.shape[1:])
    found = (tuple(a1.shape), tuple(a2.shape), tuple(b1.shape), tuple(b2.shape))
    if rank == 0 or found != ((inputs, rank), (rank, inputs), (out, rank), (rank, width)):
        raise BadAdapter(f"shape mismatch: the layer is {list(parts.shape)}; found a1, a2, b1, b2 {found}")
    if mid is not None and tuple(mid.shape) != (rank, rank, *parts.shape[2:]):
        raise BadAdapter(f"shape mismatch: bm {[rank, rank, *parts.shape[2:]]} was expected; found {list(mid.shape)}")
    scale, alpha = parts.scale(rank)
    if parts.fixed_scale is None and parts.alpha is not None and parts.whole.is_rank_stabilised:
        scale *= math.sqrt(rank)
    adapter = Generalized(a1, a2, b1, b2, scale, parts.shape, mid)
    return Built(adapter=adapter, algorithm="GLoRA", rank=rank, alpha=alpha)


BUILDER = Builder(
    algorithm="GLoRA", required=frozenset({"a1", "a2", "b1", "b2"}), optional=frozenset({"bm"}), build=_build
)
