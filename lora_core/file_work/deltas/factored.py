"""Matrices kept as the product of two factors, and what can be told of them without multiplying out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .decompositions import qr, svd
from .kronecker_product import KroneckerProduct
from .spectrum import Spectrum

DENSE_FROM = (
    0.75  # of the smaller side: with more columns than that, the whole matrix is the smaller problem (measured)
)
EXACT = torch.float64
LARGEST = 1e100  # no number of a delta is larger: its square would leave float64 when a few thousand are summed


@dataclass(frozen=True, eq=False)
class Factored:
    """delta = up @ down. The same delta has many such pairs (up G, G^-1 down); nothing here depends on which it is."""

    up: Tensor  # [out, rank], float64
    down: Tensor  # [rank, in], float64
    product: Tensor | None = None  # up @ down, where it was given so; one of the factors is the identity then
    kronecker: KroneckerProduct | None = None  # the same delta, where it is one: tells its spectrum at little cost

    @property
    def rank(self) -> int:
        """Columns of up; the delta's own rank is at most that."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the delta."""
        return self.up.shape[0], self.down.shape[1]

    def times(self, factor: float) -> "Factored":
        """factor * delta."""
        kronecker = None if self.kronecker is None else self.kronecker.times(factor)
        if self.product is None:
            return Factored(self.up * factor, self.down, kronecker=kronecker)
        return whole(self.product * factor, kronecker)

    def dense(self) -> Tensor:
        """The delta: [out, in]."""
        return self.up @ self.down if self.product is None else self.product

    def is_in_range(self) -> bool:
        """Whether its numbers, and the squares of its norms, are finite."""
        if not self.rank:
            return True
        up, down = float(self.up.abs().max()), float(self.down.abs().max())
        return up <= LARGEST and down <= LARGEST and up * down <= LARGEST  # False for NaN

    def norm(self) -> float:
        """Frobenius norm."""
        return max(dot(self, self), 0.0) ** 0.5

    @cached_property
    def spectrum(self) -> "Spectrum":
        """The singular value decomposition, worked out once."""
        if self.kronecker is not None:
            return _significant(*self.kronecker.leading(self.kronecker.rank), self.shape)
        return decompose(self)

    def singular_values(self) -> Tensor:
        """Falling, without those that are rounding noise: [count]."""
        if self.kronecker is None:
            return self.spectrum.values
        values = self.kronecker.values
        return values[values > _floor(values, self.shape)]


def whole(delta: Tensor, kronecker: KroneckerProduct | None = None) -> Factored:
    """A matrix [out, in] as it is: its factor on the smaller side is the identity."""
    matrix = delta.to(EXACT)
    out, inputs = matrix.shape
    if inputs <= out:
        return Factored(matrix, torch.eye(inputs, dtype=EXACT), matrix, kronecker)
    return Factored(torch.eye(out, dtype=EXACT), matrix, matrix, kronecker)


def nearest(spectrum: Spectrum, rank: int) -> Factored:
    """The nearest delta of a rank (Eckart and Young 1936), each factor with the root of the values."""
    root = spectrum.values[:rank].sqrt()
    return Factored(spectrum.left[:, :rank] * root, root[:, None] * spectrum.right[:rank])


def dot(one: Factored, other: Factored) -> float:
    """<D1, D2> = sum of (B1^T B2) o (A1 A2^T), which has the ranks for sides, not those of the deltas."""
    if one.product is not None and other.product is not None:
        return float((one.product * other.product).sum())
    if one.product is not None:
        return float(((one.product @ other.down.T) * other.up).sum())
    if other.product is not None:
        return dot(other, one)
    return float(((one.up.T @ other.up) * (one.down @ other.down.T)).sum())


def concat(deltas: Sequence[Factored]) -> Factored:
    """The exact sum of deltas of one shape, its rank the sum of theirs and at most the smaller side.

    Deltas with one and the same `down`, such as rows that a trainer fused, share it, and their ups add up.
    """
    if len(deltas) == 1:
        return deltas[0]
    if any(delta.product is not None for delta in deltas):
        total = deltas[0].dense().clone()
        for delta in deltas[1:]:
            if delta.product is None:
                total.addmm_(delta.up, delta.down)
            else:
                total.add_(delta.product)
        return whole(total)
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for delta in deltas:
        same = next((number for number, down in enumerate(downs) if torch.equal(down, delta.down)), None)
        if same is None:
            ups.append(delta.up)
            downs.append(delta.down)
        else:
            ups[same] = ups[same] + delta.up
    if len(ups) == 1:
        return Factored(ups[0], downs[0])
    summed = Factored(torch.cat(ups, 1), torch.cat(downs))
    return summed if summed.rank <= min(summed.shape) else whole(summed.dense())


def decompose(delta: Factored) -> Spectrum:
    """Singular values of B A from the QR decompositions of B and A^T and a matrix of rank x rank; exact.

    B = Q_B R_B, A^T = Q_A R_A, R_B R_A^T = U S V^T, so B A = (Q_B U) S (Q_A V)^T.
    """
    if delta.rank > DENSE_FROM * min(delta.shape):
        return _significant(*svd(delta.dense()), delta.shape)
    basis_up, core_up = qr(delta.up)
    basis_down, core_down = qr(delta.down.T)
    left, values, right = svd(core_up @ core_down.T)
    return _significant(basis_up @ left, values, right @ basis_down.T, delta.shape)


def _significant(left: Tensor, values: Tensor, right: Tensor, shape: tuple[int, int]) -> Spectrum:
    """Without the values that are 0 but for rounding, which have no directions of their own."""
    count = int((values > _floor(values, shape)).sum())
    return Spectrum(left[:, :count], values[:count], right[:count])


def _floor(values: Tensor, shape: tuple[int, int]) -> float:
    """The largest singular value that rounding alone could have made."""
    return torch.finfo(values.dtype).eps * max(shape) * (float(values[0]) if values.numel() else 0.0)


def norm_of(delta: Factored | Tensor) -> float:
    """|D|."""
    return delta.norm() if isinstance(delta, Factored) else math.sqrt(float(delta.double().square().sum()))


def distance(one: Factored, other: Factored | Tensor) -> float:
    """|D1 - D2|; by dot products, to about 1e-8 of the norms, or by subtraction from a matrix."""
    if isinstance(other, Tensor):
        return math.sqrt(float((one.dense().to(other.dtype) - other).double().square().sum()))
    return math.sqrt(max(dot(one, one) - 2 * dot(one, other) + dot(other, other), 0.0))
