"""The shapes of weights in a checkpoint's header, also of those that are stored with two numbers in a byte."""

from collections.abc import Mapping

import torch

from ..files.safetensors_header import TensorEntry

WEIGHT, SECOND_SCALE = ".weight", ".weight_scale_2"  # NVFP4 has a scale for each 16 numbers, and one for all


def whole_shapes(entries: Mapping[str, TensorEntry]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the numbers: a packed weight [out, in / 2] of bytes is one of [out, in]."""
    return {name: _whole(name, entry, entries) for name, entry in entries.items()}


def _whole(name: str, entry: TensorEntry, entries: Mapping[str, TensorEntry]) -> tuple[int, ...]:
    is_packed = (
        entry.dtype == torch.uint8
        and len(entry.shape) == 2
        and name.endswith(WEIGHT)
        and name.removesuffix(WEIGHT) + SECOND_SCALE in entries
    )
    return (entry.shape[0], 2 * entry.shape[1]) if is_packed else entry.shape
