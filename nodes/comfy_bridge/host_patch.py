"""An adapter as one of the host's weight patches."""

from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase

from ...lora_core.adapters import Adapter


class HostPatch(WeightAdapterBase):
    """An adapter in the form in which the host's patcher calls it.

    The host copies a patch to the device by rebuilding it as `type(patch)(patch.loaded_keys, copied_weights)`, so the
    constructor takes these two, and `weights` holds the adapter first and all of its tensors behind it.
    """

    name = "lora_loom"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights: Any = weights

    @classmethod
    def of(cls, adapter: Adapter) -> "HostPatch":
        """The patch of an adapter."""
        return cls(set(), (adapter, *adapter.tensors()))

    def calculate_weight(
        self,
        weight: torch.Tensor,  # [out, in, *kernel], or the rows of it that the patch is for
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """Called by the host with the weight that it is patching; changes it in place, unless it has to grow."""
        adapter, *tensors = self.weights
        adapter = adapter.with_tensors(tuple(tensors))
        weight = adapter.room_for(weight)
        adapter.add_delta_(weight, strength)
        return weight
