"""The singular triples of a Kronecker product, out of those of its two small factors."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class KroneckerProduct:
    """delta = sign * kron(first, second); its singular triples are the products of theirs.

    With first = U1 S1 V1^T and second = U2 S2 V2^T, kron(first, second) = (U1 x U2) (S1 x S2) (V1 x V2)^T.
    Source: Van Loan 2000, The ubiquitous Kronecker product, sec. 2.
    """

    first: Spectrum  # of [a, c]
    second: Spectrum  # of [b, d]
    factor: float = 1.0  # the whole is multiplied with it

    def times(self, factor: float) -> "KroneckerProduct":
        """factor * delta."""
        return KroneckerProduct(self.first, self.second, self.factor * factor)

    @property
    def rank(self) -> int:
        """rank(first) * rank(second)."""
        return self.first.values.numel() * self.second.values.numel()

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """(values falling, number of each among the pairs of both factors' values): [rank]."""
        products = torch.outer(self.first.values, self.second.values).flatten() * abs(self.factor)
        values, order = torch.sort(products, descending=True, stable=True)
        return values, order

    @property
    def values(self) -> Tensor:
        """All singular values, falling: [rank]."""
        return self._sorted[0]

    def leading(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first singular triples: left [a * b, count], values [count], right [count, c * d]."""
        values, order = self._sorted
        ones, others = order[:count] // self.second.values.numel(), order[:count] % self.second.values.numel()
        sign = -1.0 if self.factor < 0 else 1.0
        left = torch.einsum("ak,bk->abk", self.first.left[:, ones] * sign, self.second.left[:, others])
        right = torch.einsum("kc,kd->kcd", self.first.right[ones], self.second.right[others])
        return left.flatten(0, 1), values[:count], right.flatten(1)
