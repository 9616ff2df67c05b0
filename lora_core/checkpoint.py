"""A checkpoint file read parameter by parameter, in float32, scaled fp8 weights as the numbers that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import FileDamaged
from .lora_file import LoraFile, Reader, identify
from .safetensors_header import Header, read_header
from .target_layer import ModelLayout, list_targets

# Beside a weight "x.weight": the number that its stored values are to be multiplied by.
SCALE_ENDS: Sequence[str] = (".scale_weight", ".weight_scale")
WEIGHT = ".weight"
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A safetensors file of a model, of which only the header has been read."""

    file: LoraFile

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read the header. Raises FileMissing, PickleRefused or FileDamaged."""
        identity = identify(path)
        return cls(LoraFile(identity, read_header(path), None))

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def header(self) -> Header:
        return self.file.header

    def layout(self) -> ModelLayout:
        """The layers that are in the file."""
        return list_targets({name: entry.shape for name, entry in self.header.entries.items()})

    def read(self, key: str) -> Tensor:
        """One parameter, float32. Raises KeyError where the file has none of this name."""
        with self.file.tensors() as reader:
            return self.value(reader, key)

    def value(self, reader: Reader, key: str) -> Tensor:
        """As `read`, out of a file that is open already."""
        stored = reader.tensor(key)
        if not stored.is_floating_point():
            raise FileDamaged(self.name, f"'{key}' holds {stored.dtype}, a quantised weight that is not known here")
        scale = self.scale(reader, key)
        return stored.float() if scale is None else stored.float() * scale

    def scale(self, reader: Reader, key: str) -> Tensor | None:
        """What the stored numbers of a weight are to be multiplied by, shaped for that; None for 1."""
        entry = self.header.entries[key]
        if entry.dtype not in FP8 or not key.endswith(WEIGHT):
            return None
        for end in SCALE_ENDS:
            name = key.removesuffix(WEIGHT) + end
            if name in self.header.entries:
                scale = reader.tensor(name).float()
                return scale.reshape(-1, *[1] * (len(entry.shape) - 1)) if scale.numel() > 1 else scale.reshape(())
        return None
