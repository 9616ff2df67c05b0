"""All adapters of a plan that act beside the layers, woven layer by layer."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..loaded_lora import LoadedLora
from .woven_layer import Strand, WovenLayer


class Weave(nn.Module):
    """The woven layers of one model, by the layer's path. Its parameters are what a host has to place and to count."""

    def __init__(self, layers: Mapping[str, WovenLayer], files: Sequence[LoadedLora]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers.values())
        self.paths = tuple(layers)
        self.files = tuple(files)

    @property
    def by_path(self) -> Mapping[str, WovenLayer]:
        """Path of the layer -> what acts beside it."""
        return {
            path: layer for path, layer in zip(self.paths, self.layers, strict=True) if isinstance(layer, WovenLayer)
        }

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Take over the strength of each file; no weight and no matrix is written."""
        values = torch.tensor(strengths, dtype=torch.float32)
        for layer in self.by_path.values():
            layer.set_strengths(values)

    @property
    def size(self) -> int:
        """Bytes of its matrices."""
        return sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))


def weave(
    strands: Mapping[str, Sequence[Strand]],
    shapes: Mapping[str, tuple[int, ...]],
    files: Sequence[LoadedLora],
    dtype: torch.dtype,
) -> Weave:
    """Weave the strands of each layer.

    Args:
        strands: path of the layer -> its strands.
        shapes: path -> shape of the layer's weight, [out, in, *kernel].
        files: those that the strands' numbers count.
        dtype: in which the model computes.
    """
    return Weave({path: WovenLayer(group, shapes[path], dtype) for path, group in strands.items()}, files)
