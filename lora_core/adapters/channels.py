"""Products along a layer's channels: the last axis of a Linear layer's input or output, axis 1 of a convolution's."""

import torch
from torch import Tensor


def is_plain(shape: tuple[int, ...], x: Tensor) -> bool:
    """Whether a layer with a weight of this shape is Linear or a convolution in one group, told by its input."""
    if len(shape) < 2 or not x.is_floating_point():
        return False
    return x.shape[_axis(shape)] == shape[1]


def scaled(factors: Tensor, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every channel times its factor [channels]."""
    return y * _in_dtype(factors, y).reshape(-1, *[1] * (y.dim() - 2 if len(shape) > 2 else 0))


def mixed(matrix: Tensor, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix [new, old] times the channels."""
    if len(shape) > 2:
        return torch.einsum("nm,bm...->bn...", _in_dtype(matrix, y), y)
    return torch.nn.functional.linear(y, _in_dtype(matrix, y))


def mixed_in_runs(blocks: Tensor, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each run of channels times its own block: blocks [runs, new, old], channels = runs * old."""
    blocks = _in_dtype(blocks, y)
    runs = in_runs(y, blocks.shape[0], shape)
    if len(shape) > 2:
        return torch.einsum("knm,bkm...->bkn...", blocks, runs).flatten(1, 2)
    return torch.einsum("knm,...km->...kn", blocks, runs).flatten(-2)


def in_runs(y: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """The channels as two axes: runs, and channels of a run."""
    if len(shape) > 2:
        return y.reshape(y.shape[0], count, -1, *y.shape[2:])
    return y.reshape(*y.shape[:-1], count, -1)


def split(y: Tensor, counts: tuple[int, ...], axis: int) -> list[Tensor]:
    """Consecutive parts of an axis."""
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [y.narrow(axis, start, count) for start, count in zip(starts, counts, strict=True)]


def _axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) > 2 else -1


def _in_dtype(tensor: Tensor, y: Tensor) -> Tensor:
    return tensor.to(y.device, y.dtype)
