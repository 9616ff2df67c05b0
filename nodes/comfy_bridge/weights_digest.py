"""Tells a host's models from one another by their weights, where no node changed what they do."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from .merged_state_dict import raw_state_dict

NUMBERS_LOOKED_AT = 256  # of each weight, evenly spread; a model that was tuned differs everywhere
HARMLESS_OBJECT_PATCHES = frozenset({"manual_cast_dtype"})  # newer hosts set it on every CLIP


def fingerprint_of(patcher: Any, settings: str) -> str | None:
    """Of a model that is trained on; None where another node changed it, or its weights can't be read."""
    if is_changed(patcher) or any(patcher.model_options.values()):
        return None
    return weights_digest(patcher.model, patcher, f"{type(patcher.model).__qualname__} {settings}")


def is_changed(patcher: Any) -> bool:
    """Whether other nodes changed what a patcher's model does; what they do to its sampling is not looked at."""
    tables = (patcher.wrappers, patcher.injections, patcher.additional_models)
    return bool(
        patcher.patches
        or patcher.hook_patches
        or patcher.forced_hooks
        or set(patcher.object_patches) - HARMLESS_OBJECT_PATCHES
        or any(any(table.values()) for table in tables)
    )


def weights_digest(module: torch.nn.Module, patcher: Any, settings: str) -> str | None:
    """sha256 of the settings and of some numbers of each unpatched weight; None where these can't be read."""
    digest = hashlib.sha256(settings.encode())
    for name, current in sorted(raw_state_dict(module).items()):
        weight = patcher.backup[name].weight if name in patcher.backup else current
        if not isinstance(weight, Tensor) or weight.is_meta or type(weight) not in (Tensor, torch.nn.Parameter):
            return None
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // NUMBERS_LOOKED_AT)].cpu().contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
