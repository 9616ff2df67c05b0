"""A checkpoint file read parameter by parameter, in float32, scaled fp8 weights as the numbers that they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileDamaged
from ..files.lora_file import LoraFile, Reader, identify
from ..files.safetensors_header import Header, read_header
from ..names.target_layer import ModelLayout, list_targets
from .open_clip import Stored, shapes_by_layer, stored_layers
from .packed_weights import whole_shapes

# Beside a weight "x.weight": the number that its stored values are to be multiplied by.
SCALE_ENDS: Sequence[str] = (".scale_weight", ".weight_scale")
WEIGHT = ".weight"
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A safetensors file of a model, of which only the header has been read."""

    file: LoraFile
    stored: Mapping[str, Stored]  # parameters that are in the file under another name, or as rows of a tensor

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read the header. Raises FileMissing, PickleRefused or FileDamaged."""
        identity = identify(path)
        header = read_header(path)
        return cls(LoraFile(identity, header, None), stored_layers(whole_shapes(header.entries)))

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def header(self) -> Header:
        return self.file.header

    def layout(self) -> ModelLayout:
        """The layers that are in the file."""
        return list_targets(shapes_by_layer(whole_shapes(self.header.entries)))

    def place(self, name: str) -> Stored:
        """Where a parameter of the layout is in the file."""
        return self.stored.get(name) or Stored(name)

    def dtype(self, name: str) -> torch.dtype:
        """Of a parameter of the layout, as it is stored."""
        return self.header.entries[self.place(name).key].dtype

    def read(self, key: str) -> Tensor:
        """One parameter, float32. Raises KeyError where the file has none of this name."""
        with self.file.tensors() as reader:
            return self.value(reader, key)

    def value(self, reader: Reader, key: str) -> Tensor:
        """As `read`, out of a file that is open already."""
        place = self.stored.get(key)
        if place is not None:
            whole = self.value(reader, place.key)
            return whole if place.rows is None else whole[place.rows[0] : place.rows[1]]
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
