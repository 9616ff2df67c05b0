"""Adds files to a host model: to its plan, and from there into its weights or beside its layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...lora_core import LoadedLora
from ...lora_core.errors import LayerGone
from ...lora_core.loaded_lora import PlacedAdapter
from ...lora_core.target_layer import UNET
from ...lora_core.weave import AUTO, MERGE, Decision, PlannedLora, WeavePlan
from .fitting import Fit, ModelFits, fits_of
from .host_patch import HostPatch
from .woven_models import clear_weave, compute_dtype, on_detach, set_weave, unloaded

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
    fits = fits_of(patcher.model)
    plan = plan.with_row(PlannedLora(lora, strength, mode, parts))
    fit = fits.of(lora, parts)
    if strength == 0 or not (fit.beside or fit.patched):  # a patch of strength 0 would still rewrite every weight
        return []
    decision = fits.decide(_fits(fits, plan.rows), patcher.model_size(), compute_dtype(patcher).itemsize)
    _add_patches(patcher, fit.patched, strength)
    rows: list[PlannedLora] = []
    for planned in plan.rows:
        if not planned.is_merged and (planned.mode == MERGE or (planned.mode == AUTO and not decision.is_branch)):
            _add_patches(patcher, fits.of(planned.lora, planned.parts).beside, planned.strength)
            planned = replace(planned, is_merged=True)
        rows.append(planned)
    plan = WeavePlan(tuple(rows))
    patcher.set_attachments(PLAN, plan)
    on_detach(patcher, PLAN, unloaded)
    _weave(patcher, plan, fits)
    return _notes(fit, rows[-1], decision)


def _fits(fits: ModelFits, rows: Sequence[PlannedLora]) -> list[Fit]:
    return [fits.of(row.lora, row.parts) for row in rows]


def _weave(patcher: ModelPatcher, plan: WeavePlan, fits: ModelFits) -> None:
    """Make the patcher put the plan's adapters beside its layers when it is loaded, and take them away after."""
    rows = plan.woven
    if not rows:
        clear_weave(patcher)
        return
    set_weave(patcher, [row.lora for row in rows], _fits(fits, rows), fits, [row.strength for row in rows])


def _notes(fit: Fit, row: PlannedLora, decision: Decision) -> list[str]:
    why = f" (auto: {decision.reason})" if row.mode == AUTO else ""
    beside, merged = len(fit.beside), len(fit.patched)
    if row.is_merged or not beside:
        return [f"merged into the weights by the host{why}"]
    rest = f"; {merged} changes of norms or of other algorithms are merged into their weights" if merged else ""
    return [f"{beside} changes act beside the layers, so another strength rewrites no weight{why}{rest}"]


def _add_patches(patcher: ModelPatcher, adapters: Sequence[PlacedAdapter], strength: float) -> None:
    if not adapters:
        return
    patches = {_patch_key(placed): HostPatch.of(placed.adapter) for placed in adapters}
    taken = set(patcher.add_patches(patches, strength))
    refused = [key for key in patches if key not in taken]
    if refused:
        raise LayerGone([key if isinstance(key, str) else key[0] for key in refused])


def _patch_key(placed: PlacedAdapter) -> str | tuple[str, tuple[int, int, int]]:
    rows = placed.place.rows
    if rows is None:
        return placed.target
    return placed.target, (0, rows[0], rows[1] - rows[0])
