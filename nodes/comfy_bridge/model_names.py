"""The layers of a host model, and every name that trainers give them."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...lora_core import ModelLayout, NameTable, list_targets
from .merged_state_dict import raw_state_dict


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
    """Name -> shape. A quantised parameter tells that of its numbers; the state dict holds them packed, two a byte."""
    packed = {name: tuple(tensor.shape) for name, tensor in raw_state_dict(module).items()}
    whole = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(remove_duplicate=False)}
    return packed | {name: shape for name, shape in whole.items() if name in packed}
