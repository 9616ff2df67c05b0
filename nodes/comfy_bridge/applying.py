"""Adds files to a host model: to its plan, and from there into its weights or beside its layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.sd import CLIP

from ...lora_core import LoadedLora
from ...lora_core.errors import LayerGone, NotOverSteps
from ...lora_core.loading.loaded_lora import PlacedAdapter
from ...lora_core.names.target_layer import UNET
from ...lora_core.weave import AUTO, MERGE, Decision, PlannedLora, Schedule, WeavePlan
from .fitting import Fit, ModelFits, fits_of
from .host_patch import HostPatch
from .moving_strengths import clear_moving, set_moving
from .plan_in_weights import PLAN, add_beside, patch_key, plan_of, read_with_plan, require_fixed
from .woven_models import clear_weave, compute_dtype, on_detach, set_weave, unloaded

ON_OTHER_CARDS = [
    getattr(CallbacksMP, name)
    for name in ("ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES")
    if hasattr(CallbacksMP, name)
]
METADATA_ATTACHMENT = "lora_metadata"  # what the host's own loader leaves for nodes that read it (ComfyUI >= 0.29)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a model, and what a person should know about how."""

    patcher: ModelPatcher
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Moves:
    """How a strength changes: over the steps, from image to image of the batch, or not at all."""

    schedule: Schedule | None = None
    images: tuple[float, ...] = ()  # a factor for each image of the batch


FIXED = Moves()


def apply_to_model(model: ModelPatcher, lora: LoadedLora, strength: float, mode: str, moves: Moves = FIXED) -> Applied:
    """A clone of the model that the adapters of the denoiser change; the model given is left as it was.

    Raises NotOverSteps where the strength should change and a layer, or the mode, does not let it.
    """
    patched = model.clone()
    if lora.metadata:
        patched.set_attachments(METADATA_ATTACHMENT, dict(lora.metadata))
    row = PlannedLora(lora, strength, mode, frozenset({UNET}), schedule=moves.schedule, images=moves.images)
    return Applied(patched, _apply(patched, row))


def apply_to_clip(clip: CLIP, lora: LoadedLora, strength: float, mode: str) -> CLIP:
    """A clone of the CLIP that the adapters of its text encoders change; the CLIP given is left as it was."""
    patched = clip.clone()
    parts = frozenset(placed.part for placed in lora.adapters) - {UNET}
    _apply(patched.patcher, PlannedLora(lora, strength, mode, parts))
    return patched


def _apply(patcher: ModelPatcher, row: PlannedLora) -> list[str]:
    """Add a file to a patcher's plan, in its weights or beside its layers."""
    plan = plan_of(patcher)
    fits = fits_of(patcher.model)
    plan = plan.with_row(row)
    fit = _fit(fits, row)
    if not row.is_fixed:
        _require_beside(row, fit)
    if row.strength == 0 or not (fit.beside or fit.patched):  # a patch of strength 0 would still rewrite every weight
        return []
    decision = _decide(patcher, plan, fits, row)
    _add_patches(patcher, fit.patched, row.strength)
    rows: list[PlannedLora] = []
    for planned in plan.rows:
        if _is_to_be_merged(planned, decision):
            _add_patches(patcher, _fit(fits, planned).beside, planned.strength)
            planned = replace(planned, is_merged=True)
        rows.append(planned)
    plan = WeavePlan(tuple(rows))
    patcher.set_attachments(PLAN, plan)
    on_detach(patcher, PLAN, unloaded)
    _weave(patcher, plan, fits)
    if plan.woven:
        read_with_plan(patcher, merge_plan)
        _weave_on_other_cards(patcher)
    return _notes(fit, rows[-1], decision)


def _weave_on_other_cards(patcher: ModelPatcher) -> None:
    """Have copies of the model on other cards (ComfyUI >= 0.29) woven by themselves: a weave for each of them."""
    for moment in ON_OTHER_CARDS:
        patcher.callbacks.setdefault(moment, {})[PLAN] = [_copied_to_card]


def _copied_to_card(_patcher: ModelPatcher, copied: ModelPatcher) -> None:
    """Called by the host with the copy, whose model is another one."""
    _weave(copied, plan_of(copied), fits_of(copied.model))


def merge_plan(patcher: ModelPatcher) -> None:
    """Turn what acts beside the layers of a patcher into its patches, for good. Raises NotInWeights for what moves."""
    plan, fits = plan_of(patcher), fits_of(patcher.model)
    if not plan.woven:
        return
    require_fixed(plan.woven)
    for row in plan.woven:
        _add_patches(patcher, _fit(fits, row).beside, row.strength)
    plan = WeavePlan(tuple(replace(row, is_merged=True) for row in plan.rows))
    patcher.set_attachments(PLAN, plan)
    _weave(patcher, plan, fits)


def _decide(patcher: ModelPatcher, plan: WeavePlan, fits: ModelFits, row: PlannedLora) -> Decision:
    """What `auto` means for a row. A strength that changes is no part of what a merge could save."""
    if not row.is_fixed:
        return Decision(is_branch=True, reason="the strength changes over the steps or from image to image")
    fixed = [_fit(fits, planned) for planned in plan.rows if planned.is_fixed]
    return fits.decide(fixed, patcher.model_size(), compute_dtype(patcher).itemsize)


def _is_to_be_merged(row: PlannedLora, decision: Decision) -> bool:
    if row.is_merged or not row.is_fixed:
        return False
    return row.mode == MERGE or (row.mode == AUTO and not decision.is_branch)


def _require_beside(row: PlannedLora, fit: Fit) -> None:
    """Raise NotOverSteps if a merge would be needed, which knows one strength alone."""
    file = row.lora.report.file
    if row.mode == MERGE:
        raise NotOverSteps(file, ["mode is 'merge'"], "Set the mode to 'auto' or 'branch', or take the schedule away.")
    if fit.patched:
        reasons = [f"{placed.target} has no exact form beside its layer" for placed in fit.patched]
        raise NotOverSteps(file, reasons, "Take the schedule away, or use a LoRA that leaves these as they are.")


def _fit(fits: ModelFits, row: PlannedLora) -> Fit:
    return fits.of(row.lora, row.parts, is_fixed=row.is_fixed)


def _weave(patcher: ModelPatcher, plan: WeavePlan, fits: ModelFits) -> None:
    """Make the patcher put the plan's adapters beside its layers when it is loaded, and take them away after."""
    rows = plan.woven
    clear_moving(patcher)
    if not rows:
        clear_weave(patcher)
        return
    weave = set_weave(patcher, rows, fits)
    if not all(row.is_fixed for row in rows):
        set_moving(patcher, weave, rows)


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
    patches = {patch_key(placed): HostPatch.of(placed.adapter) for placed in adapters}
    taken = set(add_beside(patcher, patches, strength))
    refused = [key for key in patches if key not in taken]
    if refused:
        raise LayerGone([key if isinstance(key, str) else key[0] for key in refused])
