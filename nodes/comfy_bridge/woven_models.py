"""Puts weaves beside the layers of host models when these are loaded, and lets the host place and free them."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection

from ...lora_core.errors import LayerGone, WeaveTooLarge
from ...lora_core.weave import PlannedLora, Weave
from ...lora_core.weave.injection import Injection
from ...lora_core.weave.strand import Strand, strand
from .fitting import PLAIN_DTYPES, ModelFits, forget_fits, modules_of
from .held_weaves import HeldWeave, WeavePatcher, empty_unused, hold, release
from .plan_in_weights import state_dicts_with_plan

LOG = logging.getLogger(__name__)
WEAVE = "lora_loom"  # the pack's one injection, and its additional model


def compute_dtype(patcher: ModelPatcher) -> torch.dtype:
    """The dtype of the inputs that the model's layers get; float32 where the model does not tell, as text encoders."""
    told = (getattr(patcher.model, "manual_cast_dtype", None), patcher.model_dtype())
    return next((dtype for dtype in told if dtype in PLAIN_DTYPES), torch.float32)


def set_weave(patcher: ModelPatcher, rows: Sequence[PlannedLora], layers: ModelFits) -> Weave:
    """Make the patcher put these files beside its layers when it is loaded, and take them away after.

    rows: what is woven of the patcher's plan, see WeavePlan.woven.
    """
    woven = _woven(patcher, rows, layers)
    beside = _Beside(woven, tuple(row.strength for row in rows))
    woven.users.add(beside)
    patcher.set_injections(WEAVE, [PatcherInjection(inject=beside.inject, eject=_told_only(beside.eject))])
    patcher.set_additional_models(WEAVE, [woven.patcher])
    on_detach(patcher, WEAVE, beside.detached)
    patcher.callbacks.setdefault(CallbacksMP.ON_CLONE, {})[WEAVE] = [_cloned]
    release(_is_kept)
    return woven.weave


def _cloned(_patcher: ModelPatcher, clone: ModelPatcher) -> None:
    """Called by the host, whose clones believe that they were injected if the patcher was.

    Such a clone ejects what it never injected and injects again, in the place of the patcher that is at work.
    Injections of others stay as the host has them.
    """
    if set(clone.injections) <= {WEAVE}:
        clone.is_injected = False


def clear_weave(patcher: ModelPatcher) -> None:
    """Make the patcher put nothing beside its layers, and take away what it has put there."""
    with patcher.use_ejected():
        patcher.remove_injections(WEAVE)
    patcher.set_additional_models(WEAVE, [])


PLANS_KEPT = 16  # of one model, for the next changes of strength; without their matrices they are small
PLANS_BYTES = 2 * 1024**3  # bytes that the files of these plans may hold
MATRICES_KEPT = 2  # plans of one model whose matrices stay woven
_WOVEN: "weakref.WeakKeyDictionary[torch.nn.Module, OrderedDict[Any, HeldWeave]]" = weakref.WeakKeyDictionary()
_INJECTIONS: "weakref.WeakKeyDictionary[torch.nn.Module, Injection]" = weakref.WeakKeyDictionary()


def _woven(patcher: ModelPatcher, rows: Sequence[PlannedLora], layers: ModelFits) -> HeldWeave:
    """The weave of these files, kept as long as the model lives and few others came after it."""
    kept = _WOVEN.setdefault(patcher.model, OrderedDict())
    dtype = compute_dtype(patcher)
    fits = [layers.of(row.lora, row.parts, is_fixed=row.is_fixed) for row in rows]
    key = (*(fit.serial for fit in fits), dtype)
    woven = kept.get(key)
    if woven is None:
        strands: dict[str, list[Strand]] = {}
        for number, fit in enumerate(fits):
            for placed in fit.beside:
                strands.setdefault(placed.place.path, []).append(strand(placed, number))
        files = [row.lora for row in rows]
        whole = Weave(strands, {path: layers.shape(path) for path in strands}, files, dtype)
        loom_patcher = WeavePatcher(whole, patcher.load_device, patcher.offload_device, size=whole.size)
        on_detach(loom_patcher, WEAVE, _weave_detached)
        woven = kept[key] = hold(whole, loom_patcher)
    kept.move_to_end(key)
    while len(kept) > PLANS_KEPT or (len(kept) > 1 and sum(w.weave.size for w in kept.values()) > PLANS_BYTES):
        kept.popitem(last=False)
    return woven


def _is_kept(held: HeldWeave) -> bool:
    return any(woven is held for kept in _WOVEN.values() for woven in kept.values())


def _weave_detached(patcher: ModelPatcher, unpatch_all: bool = True) -> None:
    """Called by the host when a weave leaves its device, also one whose model is gone already."""
    if not unpatch_all:  # also when Python ends, and the names below are gone
        return
    unloaded(patcher)
    for kept in _WOVEN.values():
        for key in [key for key, woven in kept.items() if not woven.users]:
            del kept[key]
    empty_unused(_is_kept)


def _keep_matrices(model: torch.nn.Module, used: HeldWeave) -> None:
    """Let go of the matrices of all plans of a model but the ones used last."""
    kept = _WOVEN.get(model, OrderedDict())
    older = [woven for woven in kept.values() if woven is not used and woven.weave.is_built]
    for woven in older[: max(0, len(older) + 1 - MATRICES_KEPT)]:
        woven.weave.drop()


_ON_UNLOAD: list[Callable[[], object]] = []


def let_go_on_unload(call: Callable[[], object]) -> None:
    """Have this called when the host unloads a model that LoRAs are applied to; once, however often it is asked for."""
    if call not in _ON_UNLOAD:
        _ON_UNLOAD.append(call)


def unloaded(patcher: ModelPatcher, unpatch_all: bool = True) -> None:
    if unpatch_all:
        for let_go in _ON_UNLOAD:
            let_go()


def on_detach(patcher: ModelPatcher, name: str, call: Callable[..., None]) -> None:
    """Have the host call this when the model leaves its device; once, however often it is asked for."""
    patcher.callbacks.setdefault(CallbacksMP.ON_DETACH, {})[name] = [_told_only(call)]


def _told_only(call: Callable[..., None]) -> Callable[..., None]:
    """A callback of the host's unloading, which an error would end in the middle, and with it the host's worker."""

    @wraps(call)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except Exception:
            LOG.exception("LoRA Loom: letting go of a model did not end as it should; its layers are as they were")

    return guarded


class _Beside:
    """What a patcher's injection does: put a weave at given strengths beside the layers of the patcher's model."""

    def __init__(self, woven: HeldWeave, strengths: tuple[float, ...]) -> None:
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
            weakref.finalize(patcher, injection.detach, owner).atexit = False
        weave = self._woven.weave
        modules = modules_of(patcher.model)
        gone = [path for path in weave.paths if path not in modules]
        if gone:
            raise LayerGone(gone)
        self._make_ready(patcher)
        layers = {modules[path]: layer for path, layer in weave.build().items()}
        injection.attach(layers, owner, state_dicts_with_plan(patcher))

    def _make_ready(self, patcher: ModelPatcher) -> None:
        """Weave, set and place the matrices, all or nothing: half of a weave would be taken for a whole one."""
        weave = self._woven.weave
        try:
            with torch.inference_mode(False):  # so that a training of the model may go through the matrices
                weave.set_strengths(self._strengths)
                _keep_matrices(patcher.model, self._woven)
                weave.place(patcher.load_device)
        except BaseException as error:
            weave.drop()
            if _is_out_of_memory(error):
                raise WeaveTooLarge(len(weave.files), weave.size, str(patcher.load_device)) from error
            raise

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
            empty_unused(_is_kept)


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch has no class of error of its own for the memory of the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("not enough memory" in str(error) or "allocate memory" in str(error))


def forget_weaves() -> None:
    """Let go of every weave kept for a model."""
    forget_fits()
    _WOVEN.clear()
    _INJECTIONS.clear()
    release(_is_kept)
