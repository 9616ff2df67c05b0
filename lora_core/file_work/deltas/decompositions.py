"""The decompositions and the norm of matrices that torch has, in the one form that is used here."""

from typing import cast

import torch
from torch import Tensor


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U [m, k], values [k] falling, V^T [k, n]) of a matrix [m, n], k its smaller side."""
    found = torch.linalg.svd(matrix, full_matrices=False)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("tuple[Tensor, Tensor, Tensor]", tuple(found))  # pyright: ignore[reportUnknownArgumentType]


def qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(Q [m, k], R [k, n]) of a matrix [m, n], k its smaller side."""
    found = torch.linalg.qr(matrix)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("tuple[Tensor, Tensor]", tuple(found))  # pyright: ignore[reportUnknownArgumentType]


def norm(matrix: Tensor) -> float:
    """Frobenius norm, summed in float64 without a copy of the matrix in it."""
    found = torch.linalg.vector_norm(matrix, dtype=torch.float64)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return float(found)  # pyright: ignore[reportUnknownArgumentType]
