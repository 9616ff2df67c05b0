"""What a file says for all its layers at once, where an algorithm needs more than the layer's own tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .scale_rules import Patterns, json_object


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeFile:
    """The parts of a file that belong to no layer of their own."""

    shared: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # role -> tensor that all layers use
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])  # PEFT's adapter_config.json
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])  # of the header

    rank_pattern: Patterns = field(default_factory=lambda: Patterns({}))  # of that configuration
    enlarges: bool = False  # a control LoRA of Flux, which gives layers inputs for a second picture

    def peft_number(self, name: str, default: float) -> float:
        """A number of PEFT's configuration, the default where it gives none."""
        return _number(self.config.get(name), default)

    def network_dims(self) -> frozenset[float]:
        """The ranks that kohya's metadata gives the network: of its linear layers, and of its convolutions."""
        stated = (self.metadata.get("ss_network_dim"), self._network_args().get("conv_dim"))
        return frozenset(number for value in stated if not math.isnan(number := _number(value, math.nan)))

    @property
    def is_rank_stabilised(self) -> bool:
        """Whether LyCORIS was told `rs_lora`."""
        return str(self._network_args().get("rs_lora", "")).lower() in ("true", "1")

    def _network_args(self) -> Mapping[str, Any]:
        return json_object(self.metadata.get("ss_network_args", "{}"))


def _number(value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default
