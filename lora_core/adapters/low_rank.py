"""LoRA, also on convolutions (LoCon), also with a middle tensor (Tucker)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, FrozenLayer, as_input
from .channels import is_plain, mixed


@dataclass(frozen=True, slots=True, eq=False)
class LowRank(AdditiveAdapter):
    """delta = scale * up @ down, with scale = alpha / rank.

    With a middle tensor, delta[o, i, ...] = scale * sum_mn up[o, m] * mid[m, n, ...] * down[n, i].
    Sources: Hu et al. 2021 (arXiv 2106.09685) eq. 3; LyCORIS 4.1 functional.rebuild_tucker for the middle tensor.
    """

    down: Tensor  # [rank, in * kernel], or [rank, in] with a middle tensor
    up: Tensor  # [out, rank]
    scale: float  # alpha / rank
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    mid: Tensor | None = None  # [rank, rank, *kernel]

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        return torch.mm(self.up.float() * self.scale, self.wide_down()).reshape(self.shape)

    def add_delta_(self, weight: Tensor, strength: float) -> None:
        """See Adapter.add_delta_. On a float32 weight this is one fused pass over it."""
        up, down = self.up.to(weight.device).float(), self.wide_down().to(weight.device)
        factor = strength * self.scale
        if weight.dtype == torch.float32 and weight.is_contiguous():
            weight.view(up.shape[0], -1).addmm_(up, down, alpha=factor)
        else:
            weight.add_(torch.mm(up, down).mul_(factor).reshape(weight.shape).to(weight.dtype))

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: up(down(x)), `down` with the layer's own stride and padding."""
        if not is_plain(self.shape, x):
            return AdditiveAdapter.branch(self, x, plain, layer)
        down = self.wide_down().reshape(-1, *self.shape[1:])
        return mixed(self.up.float() * self.scale, layer.apply(as_input(down, x), x), self.shape)

    def wide_down(self) -> Tensor:
        """The matrix that `up` multiplies: [rank, in * kernel], float32."""
        down = self.down.float()
        if self.mid is None:
            return down
        return torch.einsum("mn...,ni->mi...", self.mid.float(), down).flatten(1)


def low_rank(parts: AdapterParts, scale: float | None = None) -> tuple[LowRank, int, float]:
    """The adapter of a pair of matrices, its rank and its alpha.

    Args:
        parts: with the roles down and up, perhaps mid.
        scale: of the algorithm; None for alpha / rank.

    Raises BadAdapter if they don't fit each other and the layer.
    """
    down, up, mid = parts.tensors["down"], parts.tensors["up"], parts.tensors.get("mid")
    rank = down.shape[0] if down.dim() > 1 else 0
    if rank == 0 or up.dim() < 2:
        raise BadAdapter(f"rank 0 or no matrix: down is {list(down.shape)}, up is {list(up.shape)}")
    kernel = math.prod(parts.shape[2:])
    out, inputs = parts.shape[0], math.prod(parts.shape[1:2])
    wanted_down = (rank, inputs if mid is not None else inputs * kernel)
    found_down, found_up = (rank, down.numel() // rank), (up.shape[0], up.numel() // max(up.shape[0], 1))
    if found_down != wanted_down or found_up != (out, rank):
        raise BadAdapter(
            f"shape mismatch: the layer is {list(parts.shape)}, so down [{rank}, {wanted_down[1]}] and "
            f"up [{out}, {rank}] were expected; found down {list(down.shape)}, up {list(up.shape)}"
        )
    if mid is not None and tuple(mid.shape) != (rank, rank, *parts.shape[2:]):
        raise BadAdapter(f"shape mismatch: mid {[rank, rank, *parts.shape[2:]]} was expected; found {list(mid.shape)}")
    usual, alpha = parts.scale(rank)
    factor = usual if scale is None else scale
    return LowRank(down.reshape(found_down), up.reshape(found_up), factor, parts.shape, mid), rank, alpha


def _build(parts: AdapterParts) -> Built:
    adapter, rank, alpha = low_rank(parts)
    algorithm = "LoRA" if adapter.mid is None else "LoCon (Tucker)"
    return Built(adapter=adapter, algorithm=algorithm, rank=rank, alpha=alpha)


BUILDER = Builder(
    algorithm="LoRA",
    required=frozenset({"down", "up"}),
    optional=frozenset({"mid"}),
    build=_build,
)


def _build_embedding(parts: AdapterParts) -> Built:
    """PEFT's adapter of an embedding, whose weight is [entries, width]: delta = scale * (B @ A)^T."""
    down, up = parts.tensors["embedding_down"], parts.tensors["embedding_up"]  # A [rank, entries], B [width, rank]
    rank = down.shape[0]
    if (
        len(parts.shape) != 2
        or tuple(down.shape) != (rank, parts.shape[0])
        or tuple(up.shape) != (parts.shape[1], rank)
    ):
        raise BadAdapter(
            f"shape mismatch: the embedding is {list(parts.shape)}; found lora_embedding_A {list(down.shape)}, "
            f"lora_embedding_B {list(up.shape)}"
        )
    scale, alpha = parts.scale(rank)
    adapter = LowRank(up.t().contiguous(), down.t().contiguous(), scale, parts.shape)
    return Built(adapter=adapter, algorithm="LoRA", rank=rank, alpha=alpha)


EMBEDDING = Builder(algorithm="LoRA", required=frozenset({"embedding_down", "embedding_up"}), build=_build_embedding)
