"""Whoever asks a patched model for its weights gets the plan in them: what acts beside the layers, at its strengths.

The host's nodes ask a patcher for key patches, a state dict or a patched weight (merging, saving, extracting), or the
model itself for its state dict (Control-LoRA; saving in ComfyUI 0.3.75). A branch is in none of these by itself.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.float
import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher, get_key_weight, string_to_seed
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ...lora_core.errors import NotInWeights
from ...lora_core.loading.loaded_lora import PlacedAdapter
from ...lora_core.weave import PlannedLora, WeavePlan
from .fitting import fits_of
from .host_patch import HostPatch
from .merged_state_dict import MergedStateDict

PLAN = "lora_loom_plan"  # attachment: the WeavePlan of a patcher
READ = "lora_loom_weights"  # the pack's callback on cloning
HostPatches = Sequence[tuple[Any, ...]]  # (strength, patch, strength of the weight, offset, function), as the host has
PLAIN_KINDS = (Tensor, nn.Parameter)
ADDED = frozenset({"lora", "loha", "lokr"})  # the host's adapters that add to a weight, whatever it is
DIFF = "diff"  # the host's patch of a whole difference


def plan_of(patcher: ModelPatcher) -> WeavePlan:
    """The files that a patcher's model is applied to."""
    return patcher.get_attachment(PLAN) or WeavePlan()


def patch_key(placed: PlacedAdapter) -> str | tuple[str, tuple[int, int, int]]:
    """The host's key of what an adapter changes: a parameter, or rows of it as (axis, start, length)."""
    rows = placed.place.rows
    return placed.target if rows is None else (placed.target, (0, rows[0], rows[1] - rows[0]))


MergePlan = Callable[[ModelPatcher], None]  # turns what acts beside the layers into patches, for good


def read_with_plan(patcher: ModelPatcher, merge_plan: MergePlan) -> None:
    """Have a patcher, and every clone of it, answer for its weights with its plan in them."""
    reader = _Reader(patcher, merge_plan)
    for name in ("get_key_patches", "model_state_dict", "patch_weight_to_device", "add_patches", "patch_hooks"):
        setattr(patcher, name, getattr(reader, name))  # which holds the patcher weakly: the host counts on its end

    def cloned(_patcher: ModelPatcher, clone: ModelPatcher) -> None:
        read_with_plan(clone, merge_plan)

    patcher.callbacks.setdefault(CallbacksMP.ON_CLONE, {})[READ] = [cloned]


def add_beside(patcher: ModelPatcher, patches: Mapping[Any, Any], strength: float) -> list[Any]:
    """The host's add_patches for the pack's own, which leave what acts beside the layers as it is."""
    return type(patcher).add_patches(patcher, patches, strength)


def state_dicts_with_plan(patcher: ModelPatcher) -> dict[nn.Module, Callable[..., Any]]:
    """Module -> what its state_dict is to be while a weave is in: for those who ask the model and not the patcher."""
    model: Any = patcher.model
    inner = getattr(model, "diffusion_model", None)
    added = _PlanPatches(patcher)
    found = {model: _state_dict(added, model, "")}
    return found if inner is None else {**found, inner: _state_dict(added, inner, "diffusion_model.")}


def _state_dict(added: "_PlanPatches", module: nn.Module, prefix: str) -> Callable[..., Any]:
    asked = weakref.ref(module)

    def state_dict(*arguments: Any, **options: Any) -> Any:
        here, owner = asked(), added.patcher()
        assert here is not None  # it is being asked
        found = type(here).state_dict(here, *arguments, **options)
        if arguments or options or owner is None:  # a part of a larger one, which is asked itself
            return found
        return MergedStateDict(found, lambda key, weight: merged(owner, added.now(), prefix + key, weight))

    return state_dict


class _PlanPatches:
    """What acts beside the layers of a patcher, as the host's patches; worked out once for each plan."""

    def __init__(self, patcher: ModelPatcher) -> None:
        self.patcher = weakref.ref(patcher)
        self._known: tuple[WeavePlan, Mapping[str, HostPatches]] | None = None

    def here(self) -> ModelPatcher:
        """The patcher, one of whose methods is being called."""
        patcher = self.patcher()
        assert patcher is not None
        return patcher

    def now(self) -> Mapping[str, HostPatches]:
        """By parameter. Raises NotInWeights for what moves."""
        patcher = self.here()
        plan = plan_of(patcher)
        if self._known is None or self._known[0] is not plan:
            self._known = (plan, patches_of(patcher, plan))
        return self._known[1]


class _Reader:
    """What stands in the place of a patcher's methods; the class's own are called with the plan beside them."""

    def __init__(self, patcher: ModelPatcher, merge_plan: MergePlan) -> None:
        self._merge_plan = merge_plan
        self._added = _PlanPatches(patcher)
        self._is_hooking = False

    def _own(self, name: str) -> Callable[..., Any]:
        """The method of the patcher's class."""
        patcher = self._added.here()
        return getattr(type(patcher), name).__get__(patcher)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, Any]:
        """Of the host: parameter -> [its weight, patch, ...]."""
        found = self._own("get_key_patches")(filter_prefix)
        if self._is_hooking:
            return found
        for key, added in self._added.now().items():
            if key in found:
                found[key] = [*found[key], *added]
        return found

    def patch_hooks(self, hooks: Any) -> None:
        """Of the host: hooks go into the weights, and the branch stays beside them; what it asks itself is its own."""
        self._is_hooking = True
        try:
            self._own("patch_hooks")(hooks=hooks)
        finally:
            self._is_hooking = False

    def model_state_dict(self, filter_prefix: str | None = None) -> Mapping[str, Any]:
        """Of the host: parameter -> its weight as it is now, the host's patches in it where they are."""
        patcher = self._added.here()
        found = self._own("model_state_dict")(filter_prefix)
        if self._is_hooking or not plan_of(patcher).woven:
            return found
        return MergedStateDict(found, lambda key, weight: merged(patcher, self._added.now(), key, weight))

    def patch_weight_to_device(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Of the host: a weight with its patches, into the model, or only returned."""
        own = self._own("patch_weight_to_device")
        added = self._added.now().get(key, ()) if options.get("return_weight") else ()
        if not added:
            return own(key, *arguments, **options)
        patcher = self._added.here()
        found = patcher.patches
        patcher.patches = {**found, key: [*found.get(key, ()), *added]}
        try:
            return own(key, *arguments, **options)
        finally:
            patcher.patches = found

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Of the host. What changes the weight itself must find the plan in it, so that is merged before."""
        if strength_model != 1.0 or not all(map(_only_adds, patches.values())):
            self._merge_plan(self._added.here())
        return self._own("add_patches")(patches, strength_patch, strength_model)


def _only_adds(patch: Any) -> bool:
    """Whether a patch adds something that does not depend on the weight, so that a branch beside it is right."""
    if isinstance(patch, list):
        return True  # a weight of another model
    if isinstance(patch, tuple):
        return len(patch) == 1 or (patch[0] == DIFF and len(patch[1]) == 1)
    return getattr(patch, "name", "") in ADDED and not _is_decomposed(patch)


def _is_decomposed(patch: Any) -> bool:
    """Whether an adapter of the host has a magnitude (DoRA) or another shape: the last of its tensors, or behind it."""
    places = {"lora": (4, 5), "loha": (7,), "lokr": (8,)}[patch.name]
    return any(len(patch.weights) > place and patch.weights[place] is not None for place in places)


def patches_of(patcher: ModelPatcher, plan: WeavePlan) -> dict[str, HostPatches]:
    """Parameter -> what acts beside its layer. Raises NotInWeights for what moves."""
    require_fixed(plan.woven)
    fits = fits_of(patcher.model)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in plan.woven:
        for placed in fits.of(row.lora, row.parts, is_fixed=True).beside:
            key = patch_key(placed)
            name, offset = (key, None) if isinstance(key, str) else key
            found.setdefault(name, []).append((row.strength, HostPatch.of(placed.adapter), 1.0, offset, None))
    return dict(found)


def require_fixed(rows: Sequence[PlannedLora]) -> None:
    """Raise NotInWeights if a strength changes: weights hold one."""
    moving = [row.lora.report.file for row in rows if not row.is_fixed]
    if moving:
        raise NotInWeights(moving)


def merged(patcher: ModelPatcher, patches: Mapping[str, HostPatches], key: str, weight: Any) -> Any:
    """A weight as it is now with the plan in it, rounded as the host rounds a merge; the weight itself is left alone.

    A quantised weight is told as it is: the host asks for its merge by `patch_weight_to_device`.
    """
    added = patches.get(key)
    if not added or type(weight) not in PLAIN_KINDS:
        return weight
    held, set_weight, convert = get_key_weight(patcher.model, key)
    if type(held) not in PLAIN_KINDS:
        return weight
    with torch.no_grad():
        whole = weight.detach().to(torch.float32, copy=True)
        if convert is not None:
            whole = convert(whole, inplace=True)
        whole = comfy.lora.calculate_weight(list(added), whole, key)
        seed = string_to_seed(key)
        if set_weight is not None:
            return set_weight(whole, inplace_update=False, seed=seed, return_weight=True)
        return comfy.float.stochastic_rounding(whole, weight.dtype, seed=seed)
