"""All adapters of a plan that act beside the layers, woven layer by layer when they are first needed."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import nn

from ..loaded_lora import LoadedLora
from .woven_layer import Strand, WovenLayer, size_of


class Weave(nn.Module):
    """The woven layers of one model, by the layer's path. Its parameters are what a host has to place and to count.

    They are made by `build`, so that the plans of a chain of nodes cost nothing but the last one.
    """

    def __init__(
        self,
        strands: Mapping[str, Sequence[Strand]],
        shapes: Mapping[str, tuple[int, ...]],
        files: Sequence[LoadedLora],
        dtype: torch.dtype,
    ) -> None:
        """Plan a weave.

        Args:
            strands: path of the layer -> its strands.
            shapes: path -> shape of the layer's weight, [out, in, *kernel].
            files: those that the strands' numbers count; kept as long as the weave.
            dtype: in which the model computes.
        """
        super().__init__()
        self._strands = dict(strands)
        self._shapes = dict(shapes)
        self._dtype = dtype
        self.files = tuple(files)
        self.paths = tuple(strands)
        self.layers = nn.ModuleList()
        self._alike: list[list[int]] = []

    def build(self) -> Mapping[str, WovenLayer]:
        """Path of the layer -> what acts beside it; woven at the first call."""
        if not self.is_built:
            woven = [WovenLayer(self._strands[path], self._shapes[path], self._dtype) for path in self.paths]
            self._alike = self._group(woven)
            self.layers = nn.ModuleList(woven)
        layers = (layer for layer in self.layers if isinstance(layer, WovenLayer))
        return dict(zip(self.paths, layers, strict=True))

    @property
    def is_built(self) -> bool:
        """Whether its matrices are made."""
        return len(self.layers) == len(self.paths)

    def drop(self) -> None:
        """Let go of the matrices; what is attached to a model goes on with its own."""
        self.layers = nn.ModuleList()

    def place(self, device: torch.device) -> None:
        """Move the matrices to a device, if they are elsewhere."""
        here = next((parameter.device for parameter in self.parameters()), device)
        if here != device:
            self.to(device)

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Take over the strength of each file; no weight and no matrix is written."""
        values = torch.tensor(strengths, dtype=torch.float32)
        layers = list(self.build().values())
        for group in self._alike:
            first, *others = (layers[number] for number in group)
            first.set_strengths(values)
            for other in others:
                other.rank_strengths.copy_(first.rank_strengths)

    def _group(self, layers: Sequence[WovenLayer]) -> list[list[int]]:
        """Numbers of the layers whose strengths are the same tensor: most have the same ranks of the same files."""
        groups: dict[tuple[int, ...] | int, list[int]] = {}
        for number, layer in enumerate(layers):
            key = layer.numbers if layer.has_ranks_only else number
            groups.setdefault(key, []).append(number)
        return list(groups.values())

    @cached_property
    def size(self) -> int:
        """Bytes of its matrices, whether they are made yet or not."""
        numbers = sum(size_of(group, self._shapes[path]) for path, group in self._strands.items())
        return numbers * self._dtype.itemsize
