"""The singular values of every layer of adapter files, and where in the model their energy is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..names.block_names import block_of
from ..names.target_layer import ModelLayout
from .deltas.aligned_layers import ParameterOf
from .layer_refusals import check_range, readable
from .progress import Progress, no_progress
from .sources import Source, factored_layers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSpectrum:
    """What one file does to one layer."""

    name: str
    block: str
    values: Tensor  # singular values of the delta, falling, without those that are 0: [count], float64

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of the delta."""
        return float(self.values.square().sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileSpectra:
    """What one file does to every layer, its strength included."""

    name: str
    layers: Sequence[LayerSpectrum]  # in the order of the model

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of all deltas."""
        return sum(layer.energy for layer in self.layers)

    def blocks(self) -> dict[str, float]:
        """Block of the model -> energy, in the order of the model."""
        found: dict[str, float] = {}
        for layer in self.layers:
            found[layer.block] = found.get(layer.block, 0.0) + layer.energy
        return found

    def table(self) -> Tensor:
        """The singular values of all layers: [layers, largest rank], NaN behind the last of a layer."""
        most = max((layer.values.numel() for layer in self.layers), default=0)
        table = torch.full((len(self.layers), most), torch.nan, dtype=torch.float64)
        for row, layer in zip(table, self.layers, strict=True):
            row[: layer.values.numel()] = layer.values
        return table

    def quantiles(self, shares: Sequence[float]) -> Tensor:
        """Of the n-th singular values of the layers: [shares, n], as far as half of the layers have one."""
        table = self.table()
        held = (~table.isnan()).sum(dim=0) * 2 >= len(self.layers)
        return torch.nanquantile(table[:, held], torch.tensor(shares, dtype=table.dtype), dim=0)

    def rank_for(self, share: float) -> int:
        """The rank that every layer needs at most to keep a share of its energy, 0..1."""
        return max((_rank_for(layer, share) for layer in self.layers), default=0)


def spectra(
    sources: Sequence[Source],
    layout: ModelLayout | None = None,
    *,
    read: ParameterOf | None = None,
    progress: Progress = no_progress,
) -> list[FileSpectra]:
    """The singular values of adapter files; changes of biases and norms are left aside.

    Args:
        sources: the files, each times its strength.
        layout: the model they are for; None for the released model that fits best.
        read: the model's parameters, for DoRA and other changes that depend on the weight.
        progress: is told of every layer.

    Raises: as merge_files.
    """
    files = [source.file.name for source in sources]
    what = f"the singular values of {' and '.join(dict.fromkeys(files))} can't be told"
    layers = factored_layers(sources, layout, what, has_weights=read is not None)
    found: list[list[LayerSpectrum]] = [[] for _ in sources]
    for number, layer in enumerate(layers):
        progress(number, len(layers), layer.name)
        with readable(what, layer.name):
            deltas = layer.deltas(read)
        check_range(what, layer.name, deltas.values())
        for source, delta in deltas.items():
            values = delta.singular_values() * abs(sources[source].strength_in(layer.target.part))
            found[source].append(LayerSpectrum(name=layer.name, block=block_of(layer.target), values=values))
    progress(len(layers), len(layers), "")
    return [FileSpectra(name=name, layers=own) for name, own in zip(files, found, strict=True)]


def _rank_for(layer: LayerSpectrum, share: float) -> int:
    left = layer.values.square().flip(0).cumsum(0).flip(0)  # [count], energy from each value on
    return int((left > (1.0 - share) * layer.energy).sum())
