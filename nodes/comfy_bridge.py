"""The only file that touches comfy.*: reads a host model's layers, and hands adapters over to its weight patches."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.weight_adapter import WeightAdapterBase

from ..lora_core import LoadedLora, ModelLayout, NameTable, list_targets
from ..lora_core.adapters import Adapter
from ..lora_core.loaded_lora import PlacedAdapter
from ..lora_core.target_layer import UNET

METADATA_ATTACHMENT = "lora_metadata"  # what the host's own loader leaves for nodes that read it (ComfyUI >= 0.29)


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
        """Called by the host with the weight that it is patching; changes it in place."""
        adapter, *tensors = self.weights
        adapter.with_tensors(tuple(tensors)).add_delta_(weight, strength)
        return weight


class ModelNames:
    """The layers of a host model (and of the CLIP beside it), with every name that trainers give them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.layout: ModelLayout = list_targets(shapes)
        self.table = NameTable(self.layout)
        self.fingerprint = hash(frozenset((path, target.shape) for path, target in self.layout.targets.items()))


_KNOWN: "weakref.WeakKeyDictionary[torch.nn.Module, dict[int, tuple[Any, ModelNames]]]" = weakref.WeakKeyDictionary()


def model_names(model: ModelPatcher, clip: CLIP | None) -> ModelNames:
    """The layers and names of a model and its CLIP; kept as long as the model lives."""
    known = _KNOWN.setdefault(model.model, {})
    encoder = None if clip is None else clip.cond_stage_model
    kept = known.get(id(encoder))
    if kept is not None and (encoder is None or kept[0]() is encoder):
        return kept[1]
    shapes = _shapes(model.model)
    if encoder is not None:
        shapes |= _shapes(encoder)
    names = ModelNames(shapes)
    known[id(encoder)] = (None if encoder is None else weakref.ref(encoder), names)
    return names


def forget_names() -> None:
    """Let go of the names kept for models, so that the next use builds them again."""
    _KNOWN.clear()


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def apply_to_model(model: ModelPatcher, lora: LoadedLora, strength: float) -> ModelPatcher:
    """A clone of the model that the adapters of the denoiser change; the model given is left as it was."""
    patched = model.clone()
    _add_patches(patched, lora.of_parts(frozenset({UNET})), strength)
    if lora.metadata:
        patched.set_attachments(METADATA_ATTACHMENT, dict(lora.metadata))
    return patched


def apply_to_clip(clip: CLIP, lora: LoadedLora, strength: float) -> CLIP:
    """A clone of the CLIP that the adapters of its text encoders change; the CLIP given is left as it was."""
    patched = clip.clone()
    parts = frozenset(placed.part for placed in lora.adapters) - {UNET}
    _add_patches(patched.patcher, lora.of_parts(parts), strength)
    return patched


def _add_patches(patcher: ModelPatcher, adapters: Sequence[PlacedAdapter], strength: float) -> None:
    if strength == 0 or not adapters:  # a patch of strength 0 would still rewrite, and round, every weight
        return
    patches = {_patch_key(placed): HostPatch.of(placed.adapter) for placed in adapters}
    taken = set(patcher.add_patches(patches, strength))
    refused = [key for key in patches if key not in taken]
    if refused:
        raise RuntimeError(f"the host did not take {len(refused)} patches, the first for {refused[0]}")


def _patch_key(placed: PlacedAdapter) -> str | tuple[str, tuple[int, int, int]]:
    rows = placed.place.rows
    if rows is None:
        return placed.target
    return placed.target, (0, rows[0], rows[1] - rows[0])
