"""The Tucker product that several algorithms put in the place of a matrix product on convolutions."""

import torch
from torch import Tensor


def tucker(middle: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sum_ij middle[i, j, ...] * a[i, out] * b[j, in] -> [out, in, *kernel].

    Args:
        middle: [rank, rank, *kernel]
        a: [rank, out]
        b: [rank, in]
    Source: LyCORIS 4.1 functional.general.rebuild_tucker.
    """
    return torch.einsum("ij...,ip,jr->pr...", middle, a, b)
