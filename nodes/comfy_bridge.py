"""The only file that touches comfy.*: reads a host model's layers, and hands adapters over to its weight patches."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from comfy.sd import CLIP
from comfy.weight_adapter import WeightAdapterBase

from ..lora_core import LoadedLora, ModelLayout, NameTable, list_targets
from ..lora_core.adapters import Adapter
from ..lora_core.errors import LayerGone
from ..lora_core.injection import Injection
from ..lora_core.loaded_lora import PlacedAdapter
from ..lora_core.target_layer import UNET
from ..lora_core.weave import AUTO, MERGE, Decision, PlannedLora, Weave, WeavePlan, decide
from ..lora_core.weave.policy import LayerCost
from ..lora_core.weave.woven_layer import Strand, can_act_beside, can_stand_beside, low_rank_rank, strand

PLAN = "lora_loom_plan"  # attachment: the WeavePlan of a patcher
WEAVE = "lora_loom"  # the pack's one injection, and its additional model
PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
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
        """Called by the host with the weight that it is patching; changes it in place, unless it has to grow."""
        adapter, *tensors = self.weights
        adapter = adapter.with_tensors(tuple(tensors))
        weight = adapter.room_for(weight)
        adapter.add_delta_(weight, strength)
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


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a model, and what a person should know about how."""

    patcher: ModelPatcher
    notes: Sequence[str]


def apply_to_model(model: ModelPatcher, lora: LoadedLora, strength: float, mode: str) -> Applied:
    """A clone of the model that the adapters of the denoiser change; the model given is left as it was."""
    patched = model.clone()
    if lora.metadata:
        patched.set_attachments(METADATA_ATTACHMENT, dict(lora.metadata))
    return Applied(patched, _apply(patched, frozenset({UNET}), lora, strength, mode))


def apply_to_clip(clip: CLIP, lora: LoadedLora, strength: float, mode: str) -> CLIP:
    """A clone of the CLIP that the adapters of its text encoders change; the CLIP given is left as it was."""
    patched = clip.clone()
    parts = frozenset(placed.part for placed in lora.adapters) - {UNET}
    _apply(patched.patcher, parts, lora, strength, mode)
    return patched


def _apply(patcher: ModelPatcher, parts: frozenset[str], lora: LoadedLora, strength: float, mode: str) -> list[str]:
    """Add a file to a patcher's plan, in its weights or beside its layers."""
    plan: WeavePlan = patcher.get_attachment(PLAN) or WeavePlan()
    plan = replace(plan, parts=plan.parts | parts)
    row = PlannedLora(lora, strength, mode)
    if strength == 0 or not plan.adapters(row):  # a patch of strength 0 would still rewrite, and round, every weight
        return []
    plan = plan.with_row(row)
    modules = _Modules(patcher)
    _add_patches(patcher, [placed for placed in plan.adapters(row) if not modules.beside(placed)], strength)
    decision = _decide(patcher, plan, modules)
    rows: list[PlannedLora] = []
    for planned in plan.rows:
        if not planned.is_merged and (planned.mode == MERGE or (planned.mode == AUTO and not decision.is_branch)):
            _add_patches(patcher, [p for p in plan.adapters(planned) if modules.beside(p)], planned.strength)
            planned = replace(planned, is_merged=True)
        rows.append(planned)
    plan = replace(plan, rows=tuple(rows))
    patcher.set_attachments(PLAN, plan)
    _on_detach(patcher, PLAN, _unloaded)
    _set_weave(patcher, plan, modules)
    return _notes(plan, rows[-1], modules, decision)


class _Modules:
    """The modules that a plan's adapters are for, and how each adapter can act."""

    def __init__(self, patcher: ModelPatcher) -> None:
        self._modules: Mapping[str, torch.nn.Module] = dict(patcher.model.named_modules())
        self._beside: dict[int, bool] = {}  # id of an adapter that the plan holds -> how it can act

    def of(self, placed: PlacedAdapter) -> torch.nn.Module | None:
        """The module of an adapter's layer; None for a parameter that is no layer's."""
        return self._modules.get(placed.place.path)

    def beside(self, placed: PlacedAdapter) -> bool:
        """Whether an adapter can act beside its layer: cheaply, or at any cost where the weight is quantised."""
        known = self._beside.get(id(placed))
        if known is None:
            known = self._beside[id(placed)] = self._can_stand(placed)
        return known

    def _can_stand(self, placed: PlacedAdapter) -> bool:
        module = self.of(placed)
        if module is None:
            return False
        is_bias = placed.parameter == "bias"
        if can_stand_beside(placed.adapter, module, is_bias=is_bias):
            return True
        return not is_bias and is_quantised(module) and can_act_beside(placed.adapter, module)


def is_quantised(module: torch.nn.Module) -> bool:
    """Whether a merge would round the module's weight to a coarser grid than its computation has."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return False
    return weight.dtype not in PLAIN_DTYPES or type(weight) not in (torch.Tensor, torch.nn.Parameter)


def _decide(patcher: ModelPatcher, plan: WeavePlan, modules: _Modules) -> Decision:
    ranks: dict[str, LayerCost] = {}
    quantised, number_bytes = False, _compute_dtype(patcher).itemsize
    for row in plan.rows:
        for placed in plan.adapters(row):
            module = modules.of(placed)
            rank = low_rank_rank(placed.adapter)
            if module is None or rank is None or not modules.beside(placed):
                continue
            quantised = quantised or is_quantised(module)
            weight: Any = module.weight
            found = ranks.get(placed.place.path)
            ranks[placed.place.path] = LayerCost(tuple(weight.shape), rank + (found.rank if found else 0), number_bytes)
    return decide(ranks.values(), patcher.model_size(), is_quantised=quantised)


def _set_weave(patcher: ModelPatcher, plan: WeavePlan, modules: _Modules) -> None:
    """Make the patcher put the plan's adapters beside its layers when it is loaded, and take them away after."""
    rows = plan.beside
    if not rows:
        patcher.remove_injections(WEAVE)
        patcher.set_additional_models(WEAVE, [])
        return
    strands: dict[str, list[Strand]] = {}
    for number, row in enumerate(rows):
        for placed in plan.adapters(row):
            if modules.beside(placed):
                strands.setdefault(placed.place.path, []).append(strand(placed, number))
    woven = _woven(patcher, [row.lora for row in rows], strands)
    beside = _Beside(woven, tuple(row.strength for row in rows))
    patcher.set_injections(WEAVE, [PatcherInjection(inject=beside.inject, eject=beside.eject)])
    patcher.set_additional_models(WEAVE, [woven.patcher])
    _on_detach(patcher, WEAVE, beside.detached)


@dataclass(frozen=True, slots=True, eq=False)
class _Woven:
    """A weave, and the patcher through which the host places its matrices and counts their bytes."""

    weave: Weave
    patcher: ModelPatcher


PLANS_KEPT = 16  # of one model, for the next changes of strength; without their matrices they are small
PLANS_BYTES = 2 * 1024**3  # bytes that the files of these plans may hold
MATRICES_KEPT = 2  # plans of one model whose matrices stay woven
_WOVEN: "weakref.WeakKeyDictionary[torch.nn.Module, OrderedDict[Any, _Woven]]" = weakref.WeakKeyDictionary()
_INJECTIONS: "weakref.WeakKeyDictionary[torch.nn.Module, Injection]" = weakref.WeakKeyDictionary()


def _woven(patcher: ModelPatcher, files: Sequence[LoadedLora], strands: Mapping[str, Sequence[Strand]]) -> _Woven:
    """The weave of these files, kept as long as the model lives and few others came after it."""
    kept = _WOVEN.setdefault(patcher.model, OrderedDict())
    dtype = _compute_dtype(patcher)
    key = (tuple(id(file) for file in files), tuple(sorted(strands)), dtype)
    woven = kept.get(key)
    if woven is None:
        shapes = {path: tuple(patcher.model.get_submodule(path).weight.shape) for path in strands}
        whole = Weave(strands, shapes, files, dtype)
        loom_patcher = ModelPatcher(whole, patcher.load_device, patcher.offload_device, size=whole.size)
        woven = kept[key] = _Woven(whole, loom_patcher)
    kept.move_to_end(key)
    while len(kept) > PLANS_KEPT or (len(kept) > 1 and sum(w.weave.size for w in kept.values()) > PLANS_BYTES):
        kept.popitem(last=False)
    return woven


def _keep_matrices(model: torch.nn.Module, used: _Woven) -> None:
    """Let go of the matrices of all plans of a model but the ones used last."""
    kept = _WOVEN.get(model, OrderedDict())
    older = [woven for woven in kept.values() if woven is not used and woven.weave.is_built]
    for woven in older[: max(0, len(older) + 1 - MATRICES_KEPT)]:
        woven.weave.drop()


ON_UNLOAD: list[Callable[[], object]] = []  # what to let go of when the host unloads a model that LoRAs are applied to


def _unloaded(patcher: ModelPatcher, unpatch_all: bool = True) -> None:
    if unpatch_all:
        for let_go in ON_UNLOAD:
            let_go()


def _on_detach(patcher: ModelPatcher, name: str, call: Callable[..., None]) -> None:
    """Have the host call this when the model leaves its device; once, however often it is asked for."""
    patcher.callbacks.setdefault(CallbacksMP.ON_DETACH, {})[name] = [call]


class _Beside:
    """What a patcher's injection does: put a weave at given strengths beside the layers of the patcher's model."""

    def __init__(self, woven: _Woven, strengths: tuple[float, ...]) -> None:
        self._woven = woven
        self._strengths = strengths
        self._owners: weakref.WeakKeyDictionary[ModelPatcher, object] = weakref.WeakKeyDictionary()

    def inject(self, patcher: ModelPatcher) -> None:
        """Called by the host when the model is loaded."""
        injection = _INJECTIONS.setdefault(patcher.model, Injection())
        owner = self._owners.get(patcher)
        if owner is None:
            owner = self._owners[patcher] = object()
            # The host forgets to eject a patcher that nobody holds any more.
            weakref.finalize(patcher, injection.detach, owner)
        weave = self._woven.weave
        modules = dict(patcher.model.named_modules())
        gone = [path for path in weave.paths if path not in modules]
        if gone:
            raise LayerGone(gone)
        weave.set_strengths(self._strengths)
        _keep_matrices(patcher.model, self._woven)
        weave.place(patcher.load_device)
        injection.attach({modules[path]: layer for path, layer in weave.build().items()}, owner)

    def eject(self, patcher: ModelPatcher) -> None:
        """Called by the host before weights move, and when the model is unloaded; also for copies never injected."""
        injection = _INJECTIONS.get(patcher.model)
        owner = self._owners.get(patcher)
        if injection is not None and owner is not None:
            injection.detach(owner)

    def detached(self, patcher: ModelPatcher, unpatch_all: bool = True) -> None:
        """Called by the host when the model leaves its device, makes room for a copy of itself, or is dropped."""
        injection = _INJECTIONS.get(patcher.model)
        if injection is not None and injection.owner is not None:
            return  # another copy of the model is at work with the same matrices
        self._woven.weave.place(patcher.offload_device)
        if unpatch_all:
            _WOVEN.pop(patcher.model, None)


def _compute_dtype(patcher: ModelPatcher) -> torch.dtype:
    """The dtype of the inputs that the model's layers get; float32 where the model does not tell, as text encoders."""
    told = (getattr(patcher.model, "manual_cast_dtype", None), patcher.model_dtype())
    return next((dtype for dtype in told if dtype in PLAIN_DTYPES), torch.float32)


def _notes(plan: WeavePlan, row: PlannedLora, modules: _Modules, decision: Decision) -> list[str]:
    adapters = plan.adapters(row)
    beside = sum(modules.beside(placed) for placed in adapters) if not row.is_merged else 0
    why = f" (auto: {decision.reason})" if row.mode == AUTO else ""
    if not beside:
        return [f"merged into the weights by the host{why}"]
    merged = len(adapters) - beside
    rest = f"; {merged} changes of norms or of other algorithms are merged into their weights" if merged else ""
    return [f"{beside} changes act beside the layers, so another strength rewrites no weight{why}{rest}"]


def _add_patches(patcher: ModelPatcher, adapters: Sequence[PlacedAdapter], strength: float) -> None:
    if not adapters:
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
