"""OFT and BOFT: orthogonal matrices, in blocks or in butterfly stages, that turn a layer's outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built

SMALLEST_NORM = 1e-8  # as the trainers add it


@dataclass(frozen=True, slots=True, eq=False)
class Rotation(Adapter):
    """delta = rescale * turned(weight) - weight, turned by R = (I + Q)(I - Q)^-1 with Q = B - B^T per block.

    The norm of all Q together is held at `limit`. Blocks [n, b, b] turn n runs of b outputs by R^T; butterfly blocks
    [stages, n, b, b] mix outputs 2^stage * b / 2 apart. Sources: Qiu et al. 2023 (arXiv 2306.07280) sec. 3.2; Liu et
    al. 2023 (arXiv 2311.06243) eq. 3; LyCORIS 4.1 functional.diag_oft and functional.boft.
    """

    blocks: Tensor  # [n, b, b], or [stages, n, b, b]
    limit: float  # 0: none
    rescale: Tensor | None = None  # [out, 1, ...]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        rotations = cayley(self.blocks.to(weight.device).float(), self.limit)
        turned = _turn_blocks(weight, rotations) if rotations.dim() == 3 else _turn_butterfly(weight, rotations)
        if self.rescale is not None:
            turned = turned * self.rescale.to(weight.device).float().reshape(-1, *[1] * (weight.dim() - 1))
        return turned - weight


def cayley(blocks: Tensor, limit: float) -> Tensor:
    """Orthogonal [..., b, b] from any [..., b, b]."""
    skew = blocks - blocks.transpose(-1, -2)
    norm = skew.square().sum().sqrt() + SMALLEST_NORM
    if limit > 0 and norm > limit:
        skew = skew * (limit / norm)
    identity = torch.eye(skew.shape[-1], device=skew.device)
    return (identity + skew) @ torch.inverse(identity - skew)


def _turn_blocks(weight: Tensor, rotations: Tensor) -> Tensor:
    count, size, _ = rotations.shape
    runs = weight.reshape(count, size, -1)
    return torch.einsum("knm,knp->kmp", rotations, runs).reshape(weight.shape)


def _turn_butterfly(weight: Tensor, rotations: Tensor) -> Tensor:
    stages, count, size, _ = rotations.shape
    rows = weight.reshape(weight.shape[0], -1)  # [out, in * kernel]
    for stage in range(stages):
        far = 2**stage * size // 2  # outputs that lie this far apart meet in one block
        order = torch.arange(rows.shape[0], device=rows.device).reshape(-1, 2, far).transpose(1, 2).reshape(-1)
        mixed = torch.einsum("bij,bjp->bip", rotations[stage], rows[order].reshape(count, size, -1))
        rows = torch.empty_like(rows).index_copy_(0, order, mixed.reshape(rows.shape))
    return rows.reshape(weight.shape)


def _build(parts: AdapterParts) -> Built:
    blocks, rescale = parts.tensors["oft_blocks"], parts.tensors.get("rescale")
    out = parts.shape[0]
    square = blocks.dim() in (3, 4) and blocks.shape[-1] == blocks.shape[-2]
    if not square or blocks.shape[-3] * blocks.shape[-1] != out:
        raise BadAdapter(f"shape mismatch: the layer has {out} outputs, the blocks are {list(blocks.shape)}")
    if rescale is not None and rescale.numel() != out:
        raise BadAdapter(f"shape mismatch: the layer has {out} outputs, rescale is {list(rescale.shape)}")
    adapter = Rotation(blocks, (parts.alpha or 0.0) * out, rescale)
    return Built(adapter=adapter, algorithm="OFT" if blocks.dim() == 3 else "BOFT")


BUILDER = Builder(
    algorithm="OFT", required=frozenset({"oft_blocks"}), optional=frozenset({"rescale"}), sides=1, build=_build
)
