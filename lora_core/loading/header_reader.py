"""Stands in for a file's tensors where their shapes are enough."""

import torch
from torch import Tensor

from ..files.lora_file import Reader
from ..files.safetensors_header import Header

SCALAR_BYTES = 8  # bytes; tensors up to this size are read, so that alphas are told


class HeaderReader:
    """Gives shapes without data, except for single numbers when the file is at hand."""

    def __init__(self, header: Header, scalars: Reader | None) -> None:
        self._header = header
        self._scalars = scalars

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key: read if it is a single number, else on the meta device."""
        entry = self._header.entries[key]
        if self._scalars is not None and entry.stop - entry.start <= SCALAR_BYTES:
            return self._scalars.tensor(key)
        return torch.empty(entry.shape, dtype=entry.dtype, device="meta")
