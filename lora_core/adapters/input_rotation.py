"""OFT and BOFT of PEFT: orthogonal matrices that turn a layer's inputs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Adapter, AdapterParts, BadAdapter, Builder, Built, FrozenLayer
from .channels import is_plain, scaled
from .full_delta import FullDelta

NEUMANN_TERMS = 5  # PEFT's default, and OneTrainer's
COFT_NORM = 6e-5  # PEFT's default of `eps`


@dataclass(frozen=True, slots=True, eq=False)
class InputTurning(Adapter):
    """delta = gain * weight @ M^T - weight, M the product of the stages P D P^T, the last stage leftmost.

    D has the blocks on its diagonal and P is a stage's order of the inputs. Over a convolution's kernel, the inputs
    are in * kernel values. Source: PEFT 0.21.2 tuners.oft and tuners.boft, merge.
    """

    matrices: Tensor  # [stages, n, b, b], n * b = in * kernel
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    gain: Tensor | None = None  # [out]
    orders: Tensor | None = None  # [stages, in * kernel], indices; None where inputs stay in their order

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        turned = self._turned(weight.reshape(weight.shape[0], -1), forward=True)
        if self.gain is not None:
            turned = turned * self.gain.to(weight.device).float()[:, None]
        return turned.reshape(weight.shape) - weight

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: the layer's own operation on how far the input turns."""
        if not is_plain(self.shape, x) or math.prod(self.shape[2:]) != 1:
            return Adapter.branch(self, x, plain, layer)
        axis = 1 if len(self.shape) > 2 else -1
        rows = x.float().movedim(axis, -1)
        moved = (self._turned(rows, forward=False) - rows).movedim(-1, axis).to(x.dtype)
        change = layer.linear(moved)
        if self.gain is None:
            return change
        gain = self.gain.float()
        return scaled(gain, change, self.shape) + scaled(gain - 1.0, plain, self.shape)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared: over a kernel, inputs can't be turned before the convolution, so the delta is kept."""
        return self if math.prod(self.shape[2:]) == 1 else FullDelta(self.delta_of(weight))

    def _turned(self, rows: Tensor, *, forward: bool) -> Tensor:
        """rows @ M^T [..., in * kernel], as a weight's; rows @ M, as a layer's input, if not forward."""
        matrices = self.matrices.to(rows.device).float()
        stages = range(matrices.shape[0]) if forward else range(matrices.shape[0] - 1, -1, -1)
        for stage in stages:
            blocks = matrices[stage] if forward else matrices[stage].transpose(1, 2)
            order = None if self.orders is None else self.orders[stage].to(rows.device)
            if order is not None:
                rows = torch.empty_like(rows).index_copy_(-1, order, rows)
            runs = rows.reshape(*rows.shape[:-1], blocks.shape[0], blocks.shape[2])
            rows = torch.einsum("knm,...km->...kn", blocks, runs).flatten(-2)
            if order is not None:
                rows = rows.index_select(-1, order)
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class InputRotation(Adapter):
    """InputTurning by the Cayley transform of skew-symmetric matrices, of which the upper triangles are stored.

    R = (I - Q)(I + Q)^-1; or, as PEFT does unless told not to, a sum I + 2Q + 2Q^2 + ... + Q^(terms - 1), which is
    about the inverse of the former. Sources: Qiu et al. 2025 (arXiv 2506.19847) sec. 3; PEFT 0.21.2 tuners.oft.layer.
    """

    triangles: Tensor  # [n, b * (b - 1) / 2]; n = 1: one block for all runs
    shape: tuple[int, ...]  # [out, in, *kernel] of the weight
    terms: int  # of the sum; 0: exact
    divisor: float = 1.0  # that OneTrainer's scaled OFT divides Q by
    limit: float = 0.0  # of a block's norm, at which constrained OFT holds Q; 0: none

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of."""
        return self._turning(weight.device).delta_of(weight)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch."""
        return self._turning(x.device).branch(x, plain, layer)

    def prepared(self, weight: Tensor) -> Adapter:
        """See Adapter.prepared: the matrices, solved for once."""
        return self._turning(weight.device).prepared(weight)

    def _turning(self, device: torch.device) -> InputTurning:
        skew = _skew(self.triangles.to(device).float())
        if self.limit > 0:
            norm = skew.square().sum(dim=(1, 2), keepdim=True).sqrt()
            skew = torch.where(norm <= self.limit, skew, self.limit * (skew / norm))
        skew = skew / self.divisor
        matrices = inverse_cayley(skew) if self.terms == 0 else neumann(skew, self.terms)
        runs = math.prod(self.shape[1:]) // matrices.shape[-1]
        return InputTurning(matrices.expand(runs, -1, -1)[None], self.shape)


def block_size(numbers: int) -> int | None:
    """The b whose upper triangle above the diagonal has so many numbers; None if there is none."""
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    return size if size * (size - 1) // 2 == numbers else None


def _skew(triangles: Tensor) -> Tensor:
    size = block_size(triangles.shape[1]) or 1
    rows, columns = torch.triu_indices(size, size, 1, device=triangles.device)
    upper = torch.zeros(triangles.shape[0], size * size, device=triangles.device)
    upper = upper.index_copy(1, rows * size + columns, triangles).reshape(-1, size, size)
    return upper - upper.transpose(1, 2)


def inverse_cayley(skew: Tensor) -> Tensor:
    """(I - Q)(I + Q)^-1 of [..., b, b]."""
    identity = torch.eye(skew.shape[-1], device=skew.device)
    return (identity - skew) @ torch.inverse(identity + skew)


def neumann(skew: Tensor, terms: int) -> Tensor:
    """I + 2Q + 2Q^2 + ... + Q^(terms - 1), the last power once. As in PEFT, 3 terms are 4."""
    total = torch.eye(skew.shape[-1], device=skew.device).expand_as(skew).clone()
    if terms < 2:
        return total
    total += 2 * skew
    if terms == 2:
        return total
    power = skew @ skew
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total += 2 * power
    return total + power @ skew


def _build_oft(parts: AdapterParts) -> Built:
    triangles, config = parts.tensors["oft_R"], parts.whole.config
    width = math.prod(parts.shape[1:])
    if triangles.dim() != 2:
        raise BadAdapter(f"oft_R should have 2 sides, but has the shape {list(triangles.shape)}")
    size = block_size(triangles.shape[1]) or 0
    one_for_all = triangles.shape[0] == 1 and size and width % size == 0
    if not size or (triangles.shape[0] * size != width and not one_for_all):
        raise BadAdapter(f"shape mismatch: the layer has {width} inputs, oft_R is {list(triangles.shape)}")
    exact = config.get("use_cayley_neumann") is False
    scaled_oft = "oft_scaled" in parts.tensors and size > 1
    adapter = InputRotation(
        triangles,
        parts.shape,
        terms=0 if exact else int(parts.whole.peft_number("num_cayley_neumann_terms", NEUMANN_TERMS)),
        divisor=2.0 * math.sqrt(size - 1) if scaled_oft else 1.0,
        limit=parts.whole.peft_number("eps", COFT_NORM) / math.sqrt(triangles.shape[0]) if config.get("coft") else 0.0,
    )
    return Built(adapter=adapter, algorithm="OFT (inputs)")


def butterfly_order(width: int, block: int, stage: int) -> Tensor:
    """The order of the inputs in a stage of PEFT's BOFT: runs of half a block, the even ones first.

    Source: PEFT 0.21.2 tuners.boft.layer, block_butterfly_perm, whose groups are block * 2^stage wide.
    """
    half = block // 2
    group = block * 2**stage
    runs = torch.arange(width).reshape(width // group, group // half, half)
    return torch.cat((runs[:, 0::2], runs[:, 1::2]), dim=1).reshape(-1)


def _build_boft(parts: AdapterParts) -> Built:
    blocks, gain = parts.tensors["boft_R"], parts.tensors["boft_s"].flatten()
    width = math.prod(parts.shape[1:])
    stages, count, size, other = blocks.shape if blocks.dim() == 4 else (0, 0, 0, 0)
    fits = stages > 0 and size == other and count * size == width and gain.numel() == parts.shape[0]
    if not fits or (stages > 1 and (size % 2 or width % (size * 2 ** (stages - 1)))):
        raise BadAdapter(
            f"shape mismatch: the layer is {list(parts.shape)}, boft_R {list(blocks.shape)}, boft_s {list(gain.shape)}"
        )
    wide = blocks.float()
    matrices = inverse_cayley((wide - wide.transpose(-1, -2)) / 2)
    orders = torch.stack([butterfly_order(width, size, stage) for stage in range(stages)]) if stages > 1 else None
    return Built(adapter=InputTurning(matrices, parts.shape, gain, orders), algorithm="BOFT (inputs)")


OFT = Builder(
    algorithm="OFT (inputs)",
    required=frozenset({"oft_R"}),
    optional=frozenset({"oft_scaled"}),
    sides=0,
    build=_build_oft,
)
BOFT = Builder(algorithm="BOFT (inputs)", required=frozenset({"boft_R", "boft_s"}), build=_build_boft)
