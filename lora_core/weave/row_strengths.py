"""The strengths of the rows of a woven matrix: one for all images of a batch, or one for each."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import NotPerImage


class Strengths(nn.Module):
    """For each row of a matrix the strength of the file that it came from.

    Layers with the same rows of the same files share one, so a change is written once. What all images share is filled
    in place, so that compiled code stays valid.
    """

    def __init__(self, numbers: Sequence[int], dtype: torch.dtype) -> None:
        """All 1.

        Args:
            numbers: for each row the number of its file in the plan.
            dtype: in which the strengths are held.
        """
        super().__init__()
        self.numbers = tuple(numbers)
        self._index = torch.tensor(numbers, dtype=torch.long)
        self.register_buffer("alike", torch.ones(len(numbers), dtype=dtype), persistent=False)
        self.register_buffer("each", None, persistent=False)
        self.alike: Tensor  # [rows]
        self.each: Tensor | None  # [samples, rows], where they differ

    def set(self, strengths: Tensor) -> None:
        """Take over the strengths of the plan's files: [files], or [samples, files] of the model's next call."""
        if strengths.dim() == 1:
            self.alike.copy_(strengths[self._index])
            self.each = None
            return
        self.each = strengths[:, self._index].to(self.alike)

    def of(self, number: int) -> Tensor:
        """The strength of a file that has rows here: one number, or [samples]."""
        row = self.numbers.index(number)
        return self.alike[row] if self.each is None else self.each[:, row]

    def along(self, y: Tensor, axis: int) -> Tensor:
        """The strengths in a shape that multiplies y along an axis (1 or -1), where y has these rows."""
        if self.each is None:
            alike = as_like(self.alike, y)
            return alike if axis == -1 else alike.reshape(1, -1, *[1] * (y.dim() - 2))
        return beside_axis(of_samples(self.each, y).to(y), y, axis)

    def weighted(self, matrix: Tensor, y: Tensor, axis: int) -> Tensor:
        """sum_i s_i matrix_i in a shape that can be added to y along an axis (1 or -1); matrix is [rows, width]."""
        if self.each is None:
            total = self.alike.to(y.dtype) @ matrix.to(y)
            return total.reshape(-1, *[1] * (y.dim() - 2 if axis == 1 else 0))
        return beside_axis(of_samples(self.each, y).to(y) @ matrix.to(y), y, axis)


def as_like(held: Tensor, y: Tensor) -> Tensor:
    """A tensor in y's dtype and place; asking costs less than a conversion that has nothing to do."""
    return held if held.dtype == y.dtype and held.device == y.device else held.to(y)


def of_samples(each: Tensor, y: Tensor) -> Tensor:
    """The rows [samples, ...] of `each` for every row of y's first axis.

    A layer may see a sample as several rows behind each other, such as the frames of a video or the tokens of a
    picture. Raises NotPerImage where y's first axis can't be the samples.
    """
    samples, rows = each.shape[0], y.shape[0]
    if y.dim() < 2 or rows % samples:
        raise NotPerImage(samples, tuple(y.shape))
    return each if rows == samples else each.repeat_interleave(rows // samples, dim=0)


def beside_axis(values: Tensor, y: Tensor, axis: int) -> Tensor:
    """[samples, width] with axes of 1 put in between, so that the width stands at y's axis (1 or -1)."""
    ones = [1] * (y.dim() - 2)
    shape = (values.shape[0], *ones, values.shape[1]) if axis == -1 else (*values.shape, *ones)
    return values.reshape(shape)
