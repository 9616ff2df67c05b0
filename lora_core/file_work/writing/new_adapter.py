"""Collects the worked-out changes of layers and makes an adapter file of them, telling what storing them costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.adapter_content import AdapterContent
from ...files.lora_in_memory import LoraInMemory, lora_in_memory
from .target_check import check_out


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOutcome:
    """What became of one layer's matrix. Norms are Frobenius norms."""

    name: str
    block: str
    rank: int  # stored
    rank_before: int  # before it was cut
    norm: float  # of the change that was asked for
    kept_energy: float  # share of the squared norm that the cut left, 0..1
    error: float  # norm of (stored - asked for), rounding included

    @property
    def relative_error(self) -> float:
        """Error as a share of the norm; 0 for a change of 0."""
        return self.error / self.norm if self.norm else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewAdapter:
    """An adapter file, not yet written, and what its making did to each layer."""

    content: AdapterContent
    layers: Sequence[LayerOutcome]
    notes: Sequence[str]

    def write(self, path: Path, *, replace: bool = False) -> None:
        """Write the file whole or not at all. Raises FileNotWritten, also if it is there and not to be replaced."""
        check_out(path, replace=replace, configured=self.content.peft_config is not None)
        self.content.write(path)

    def in_memory(self, name: str) -> LoraInMemory:
        """The adapter to be used as it is, without a file."""
        return lora_in_memory(name, self.content)

    @property
    def error(self) -> float:
        """Of all layers together, |stored - asked for| / |asked for|."""
        return _share(self.layers)

    def blocks(self) -> Mapping[str, tuple[float, float]]:
        """Block of the model -> (kept share of the squared norm, relative error)."""
        found: dict[str, list[LayerOutcome]] = {}
        for layer in self.layers:
            found.setdefault(layer.block, []).append(layer)
        return {block: (_kept(layers), _share(layers)) for block, layers in found.items()}

    def lines(self) -> list[str]:
        """The outcome for a person."""
        ranks = [layer.rank for layer in self.layers]
        lines = [self.content.line()]
        if ranks:
            worst = max(self.layers, key=lambda layer: layer.relative_error)
            lines.append(
                f"{len(ranks)} matrices, rank {min(ranks)} to {max(ranks)}. Relative error {self.error:.2e} in all, "
                f"{worst.relative_error:.2e} at most ({worst.name})."
            )
            cut = any(layer.rank < layer.rank_before for layer in self.layers)
            kept = {block: share for block, (share, _) in self.blocks().items()} if cut else {}
            lines += [f"  {block}: {share:.4%} of the energy kept" for block, share in kept.items()]
        return [*lines, *(f"Note: {note}." for note in self.notes)]

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain data."""
        return {
            "tensors": len(self.content.tensors),
            "relative_error": self.error,
            "blocks": {block: {"kept_energy": k, "relative_error": e} for block, (k, e) in self.blocks().items()},
            "layers": [
                {
                    "name": layer.name,
                    "rank": layer.rank,
                    "rank_before": layer.rank_before,
                    "norm": layer.norm,
                    "kept_energy": layer.kept_energy,
                    "relative_error": layer.relative_error,
                }
                for layer in self.layers
            ],
            "notes": list(self.notes),
        }


def _share(layers: Sequence[LayerOutcome]) -> float:
    whole = sum(layer.norm**2 for layer in layers)
    return math.sqrt(sum(layer.error**2 for layer in layers) / whole) if whole else 0.0


def _kept(layers: Sequence[LayerOutcome]) -> float:
    whole = sum(layer.norm**2 for layer in layers)
    return sum(layer.kept_energy * layer.norm**2 for layer in layers) / whole if whole else 1.0
