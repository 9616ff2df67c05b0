"""The small matrices that deltas of low rank are in bases of their own, without loss, and whatever their gauge is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..deltas.decompositions import svd
from ..deltas.factored import Factored


@dataclass(frozen=True, slots=True, eq=False)
class CoreSpace:
    """delta_i = left @ cores[i] @ right.

    The bases are the left singular vectors of [delta_1 .. delta_K] and the right ones of the deltas one below the
    other, so they depend on the deltas alone: not on how a trainer split B from A, nor on the order of the files.
    Source: Panariello et al. 2025 (arXiv 2509.17786), whose bases are those of the factors, which do depend on it.
    """

    left: Tensor  # [out, p], orthonormal columns
    right: Tensor  # [q, in], orthonormal rows
    cores: Sequence[Tensor]  # each [p, q]

    def delta(self, core: Tensor) -> Factored:
        """The delta that a core stands for."""
        if core.shape[0] <= core.shape[1]:
            return Factored(self.left, core @ self.right)
        return Factored(self.left @ core, self.right)


def core_space(deltas: Sequence[Factored]) -> CoreSpace:
    """The core space of deltas of one shape."""
    spectra = [delta.spectrum for delta in deltas]
    left = _basis(torch.cat([s.left * s.values for s in spectra], dim=1))
    right = _basis(torch.cat([s.right.T * s.values for s in spectra], dim=1)).T
    cores = [(left.T @ s.left * s.values) @ (s.right @ right.T) for s in spectra]
    return CoreSpace(left, right, cores)


def _basis(columns: Tensor) -> Tensor:
    """The left singular vectors of a matrix, without those of rounding noise."""
    vectors, values, _ = svd(columns)
    if not values.numel():
        return vectors
    floor = torch.finfo(values.dtype).eps * max(columns.shape) * float(values[0])
    return vectors[:, values > floor]
