"""OFT and BOFT of kohya and LyCORIS: matrices, in blocks or in butterfly stages, that turn a layer's outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built, FrozenLayer
from .channels import mixed_in_runs
from .row_runs import RowRuns

SMALLEST_NORM = 1e-8  # as the trainers add it
RUNS_AT_MOST = 8  # runs of rows that a fused layer has rotations of its own for; Flux has 4
RUNS = tuple(f"oft_blocks_{number}" for number in range(RUNS_AT_MOST))


@dataclass(frozen=True, slots=True, eq=False)
class Turning(Adapter):
    """delta = rescale * turned(weight) - weight, turned by matrices that are given.

    Blocks [n, b, b] turn n runs of b outputs by their transpose; butterfly blocks [stages, n, b, b] mix outputs
    2^stage * b / 2 apart. Sources: LyCORIS 4.1 functional.diag_oft and functional.boft.
    """

    matrices: Tensor  # [n, b, b], or [stages, n, b, b]
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    rescale: Tensor | None = None  # [out]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        turn = _turn_blocks if self.matrices.dim() == 3 else _turn_butterfly
        turned = turn(weight, self.matrices.to(weight.device).float())
        if self.rescale is not None:
            turned = turned * self._rescale(weight.device).reshape(-1, *[1] * (weight.dim() - 1))
        return turned - weight

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: turns the output, so it reads no weight."""
        if self.matrices.dim() == 3:
            return mixed_in_runs(self._change(plain.device), plain, self.shape)
        axis = 1 if len(self.shape) > 2 else plain.dim() - 1
        return self.delta_of(plain.float().transpose(0, axis)).transpose(0, axis).to(plain.dtype)

    def _change(self, device: torch.device) -> Tensor:
        """What turned outputs have more than plain ones, per block: [n, b, b], new by old."""
        turn = self.matrices.to(device).float().transpose(1, 2)
        if self.rescale is not None:
            turn = turn * self._rescale(device).reshape(turn.shape[0], -1, 1)
        return turn - torch.eye(turn.shape[-1], device=device)

    def _rescale(self, device: torch.device) -> Tensor:
        assert self.rescale is not None
        return self.rescale.to(device).float()


@dataclass(frozen=True, slots=True, eq=False)
class Rotation(Adapter):
    """Turning by R = (I + Q)(I - Q)^-1 with Q = B - B^T per block, so that R is orthogonal.

    The norm of all Q together is held at `limit`. Sources: Qiu et al. 2023 (arXiv 2306.07280) sec. 3.2; Liu et al.
    2023 (arXiv 2311.06243) eq. 3; LyCORIS 4.1 functional.diag_oft; kohya-ss/sd-scripts networks/oft.py.
    """

    blocks: Tensor  # [n, b, b], or [stages, n, b, b]
    limit: float  # 0: none
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    rescale: Tensor | None = None  # [out]

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        return self._turning(weight.device).delta_of(weight)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch."""
        return self._turning(plain.device).branch(x, plain, layer)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared: the matrices, solved for once."""
        return self._turning(weight.device)

    def _turning(self, device: torch.device) -> Turning:
        return Turning(cayley(self.blocks.to(device).float(), self.limit), self.shape, self.rescale)


def cayley(blocks: Tensor, limit: float) -> Tensor:
    """Orthogonal [..., b, b] from any [..., b, b]."""
    skew = blocks - blocks.transpose(-1, -2)
    norm = skew.square().sum().sqrt() + SMALLEST_NORM
    if limit > 0 and norm > limit:
        skew = skew * (limit / norm)
    identity = torch.eye(skew.shape[-1], device=skew.device)
    return (identity + skew) @ torch.inverse(identity - skew)


def _turn_blocks(weight: Tensor, matrices: Tensor) -> Tensor:
    count, size, _ = matrices.shape
    runs = weight.reshape(count, size, -1)
    return torch.einsum("knm,knp->kmp", matrices, runs).reshape(weight.shape)


def _turn_butterfly(weight: Tensor, matrices: Tensor) -> Tensor:
    stages, count, size, _ = matrices.shape
    rows = weight.reshape(weight.shape[0], -1)  # [out, in * kernel]
    for stage in range(stages):
        far = 2**stage * size // 2  # outputs that lie this far apart meet in one block
        order = torch.arange(rows.shape[0], device=rows.device).reshape(-1, 2, far).transpose(1, 2).reshape(-1)
        mixed = torch.einsum("bij,bjp->bip", matrices[stage], rows[order].reshape(count, size, -1))
        rows = torch.empty_like(rows).index_copy_(0, order, mixed.reshape(rows.shape))
    return rows.reshape(weight.shape)


def _check_blocks(blocks: Tensor, out: int) -> None:
    square = blocks.dim() in (3, 4) and blocks.shape[-1] == blocks.shape[-2]
    fits = square and blocks.shape[-3] * blocks.shape[-1] == out
    if fits and blocks.dim() == 4:  # every stage pairs outputs that its distance divides
        fits = blocks.shape[-1] % 2 == 0 and out % (2 ** (blocks.shape[0] - 1) * blocks.shape[-1]) == 0
    if not fits:
        raise BadAdapter(f"shape mismatch: the layer has {out} outputs, the blocks are {list(blocks.shape)}")


def _build(parts: AdapterParts) -> Built:
    blocks, rescale = parts.tensors["oft_blocks"], parts.tensors.get("rescale")
    out = parts.shape[0]
    _check_blocks(blocks, out)
    if rescale is not None and rescale.numel() != out:
        raise BadAdapter(f"shape mismatch: the layer has {out} outputs, rescale is {list(rescale.shape)}")
    kept = None if rescale is None else rescale.reshape(-1)
    adapter = Rotation(blocks, (parts.alpha or 0.0) * out, parts.shape, kept)
    return Built(adapter=adapter, algorithm="OFT" if blocks.dim() == 3 else "BOFT")


def _build_given(parts: AdapterParts) -> Built:
    """LyCORIS before 2.0 saved the matrices themselves, `rescale` multiplied in."""
    matrices = parts.tensors["oft_diag"]
    _check_blocks(matrices, parts.shape[0])
    return Built(adapter=Turning(matrices, parts.shape), algorithm="OFT")


def _build_runs(parts: AdapterParts) -> Built:
    """kohya's OFT of Flux: rotations of their own for the parts that a fused layer's outputs consist of."""
    found = [parts.tensors[role] for role in RUNS if role in parts.tensors]
    if any(role not in parts.tensors for role in RUNS[: len(found)]):
        raise BadAdapter("incomplete: a rotation is missing between the first and the last of oft_blocks")
    for blocks in found:
        if blocks.dim() != 3 or blocks.shape[1] != blocks.shape[2]:
            raise BadAdapter(f"shape mismatch: rotations are [n, b, b]; found {list(blocks.shape)}")
    rows = tuple(blocks.shape[0] * blocks.shape[1] for blocks in found)
    if sum(rows) != parts.shape[0]:
        raise BadAdapter(f"shape mismatch: the layer has {parts.shape[0]} outputs, the rotations turn {list(rows)}")
    runs = tuple(
        Rotation(blocks, (parts.alpha or 0.0) * count, (count, *parts.shape[1:]))
        for blocks, count in zip(found, rows, strict=True)
    )
    return Built(adapter=RowRuns(runs, rows, parts.shape), algorithm="OFT")


BUILDER = Builder(
    algorithm="OFT", required=frozenset({"oft_blocks"}), optional=frozenset({"rescale"}), sides=1, build=_build
)
GIVEN = Builder(algorithm="OFT", required=frozenset({"oft_diag"}), sides=3, build=_build_given)
IN_RUNS = Builder(
    algorithm="OFT", required=frozenset(RUNS[:1]), optional=frozenset(RUNS[1:]), sides=3, build=_build_runs
)
