"""The singular value decomposition of a delta."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """delta = left @ diag(values) @ right, the values falling; those that are rounding noise are left out."""

    left: Tensor  # [out, count], orthonormal columns
    values: Tensor  # [count], singular values
    right: Tensor  # [count, in], orthonormal rows
