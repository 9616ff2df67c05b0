"""Keeps every weave that the host may have listed as loaded alive, and lets go of it where no loop of the host can be.

The host lists loaded models by weak references and walks over the list by index while it calls back. A patcher that
dies under it ends the walk with an error, and with it the thread that runs prompts (`free_memory` in
comfy/model_management.py). So callbacks only empty weaves; the patchers die in `release`, which nodes call.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher

from ...lora_core.weave import Weave


class WeavePatcher(ModelPatcher):
    """The patcher of a weave. A copy of it for another card stands for the weave that is made there."""

    def deepclone_multigpu(self, new_load_device: Any = None, models_cache: Any = None) -> ModelPatcher:
        """Called by the host (ComfyUI >= 0.29), which asks the patched model's own callback right after."""
        copied = self.clone()
        copied.load_device = new_load_device or self.load_device
        return copied


@dataclass(frozen=True, slots=True, eq=False)
class HeldWeave:
    """A weave, and the patcher through which the host places its matrices and counts their bytes."""

    weave: Weave
    patcher: ModelPatcher
    users: "weakref.WeakSet[object]" = field(default_factory=weakref.WeakSet)  # who puts it beside a model's layers


_HELD: list[HeldWeave] = []


def hold(weave: Weave, patcher: ModelPatcher) -> HeldWeave:
    """Keep a weave and its patcher until `release` finds that nobody needs them."""
    held = HeldWeave(weave, patcher)
    _HELD.append(held)
    return held


def release(is_kept: Callable[[HeldWeave], bool]) -> None:
    """Let go of the weaves without a user, but for those kept; to be called by nodes, never in the host's callbacks."""
    for held in [held for held in _HELD if not held.users and not is_kept(held)]:
        _unload(held)
        _HELD.remove(held)


def empty_unused(is_kept: Callable[[HeldWeave], bool]) -> None:
    """Let go of the matrices and files of weaves without a user; the weaves themselves live on. For any callback."""
    for held in _HELD:
        if not held.users and not is_kept(held):
            held.weave.empty()


def _unload(held: HeldWeave) -> None:
    """Take the weave out of the host's list as the host itself does it."""
    loaded = comfy.model_management.current_loaded_models
    own = [entry for entry in loaded if entry.model is not None and entry.model.model is held.weave]
    for entry in own:
        entry.model_unload(unpatch_weights=False)  # not for lack of memory: nothing else is let go
    loaded[:] = [entry for entry in loaded if not any(entry is one for one in own)]
