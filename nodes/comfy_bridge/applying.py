"""Adds files to a host model: to its plan, and from there into its weights or beside its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...lora_core import LoadedLora
from ...lora_core.loaded_lora import PlacedAdapter
from ...lora_core.target_layer import UNET
from ...lora_core.weave import AUTO, MERGE, Decision, PlannedLora, WeavePlan, decide
from ...lora_core.weave.policy import LayerCost
from ...lora_core.weave.woven_layer import Strand, can_act_beside, can_stand_beside, low_rank_rank, strand
from .host_patch import HostPatch
from .woven_models import PLAIN_DTYPES, clear_weave, compute_dtype, on_detach, set_weave, unloaded

PLAN = "lora_loom_plan"  # attachment: the WeavePlan of a patcher
METADATA_ATTACHMENT = "lora_metadata"  # what the host's own loader leaves for nodes that read it (ComfyUI >= 0.29)


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
    on_detach(patcher, PLAN, unloaded)
    _weave(patcher, plan, modules)
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
    quantised, number_bytes = False, compute_dtype(patcher).itemsize
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


def _weave(patcher: ModelPatcher, plan: WeavePlan, modules: _Modules) -> None:
    """Make the patcher put the plan's adapters beside its layers when it is loaded, and take them away after."""
    rows = plan.beside
    if not rows:
        clear_weave(patcher)
        return
    strands: dict[str, list[Strand]] = {}
    for number, row in enumerate(rows):
        for placed in plan.adapters(row):
            if modules.beside(placed):
                strands.setdefault(placed.place.path, []).append(strand(placed, number))
    set_weave(patcher, [row.lora for row in rows], strands, [row.strength for row in rows])


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
