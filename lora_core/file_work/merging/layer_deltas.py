"""What a merging method gets for one layer, and the settings that methods have."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import BadSetting
from ..deltas.factored import Factored


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """Numbers of the methods that have some; each method's docstring says which it reads."""

    density: float = 0.5  # share of the entries to keep, 0..1
    spread: float = 0.1  # DELLA: between the keep probabilities of the smallest and the largest entry of a row
    seed: int = 0  # of the entries that DARE and DELLA drop

    def __post_init__(self) -> None:
        """Raises BadSetting for numbers that no method can use."""
        if not 0.0 < self.density <= 1.0:
            raise BadSetting(f"density should be above 0 and at most 1, but is {self.density:g}")
        if not 0.0 <= self.spread <= 1.0:
            raise BadSetting(f"spread should be 0 to 1, but is {self.spread:g}")

    def check_spread(self) -> None:
        """Raise BadSetting where a probability would leave 0..1; for methods that read the spread."""
        low, high = self.density - self.spread / 2, self.density + self.spread / 2
        if low <= 0.0 or high > 1.0:
            raise BadSetting(f"density -+ spread / 2 should lie in 0..1, but is {low:g} to {high:g}")


@dataclass(frozen=True, slots=True, eq=False)
class LayerDeltas:
    """The deltas of one layer, each times its strength; the methods see signed, weighted changes."""

    deltas: Sequence[Factored]  # one or more, of one shape
    strengths: Sequence[float]  # that were multiplied in, none of them 0
    layer: str  # names the layer, so that what is drawn for it depends on nothing else

    def draw(self, seed: int, number: int) -> torch.Generator:
        """Random numbers for one source of this layer: the same in every run, whatever the other layers are."""
        digest = hashlib.sha256(f"{seed}\n{self.layer}\n{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
