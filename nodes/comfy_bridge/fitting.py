"""How the adapters of a file can act on one host model: worked out once for each file, for as long as its layers stay.

A chain of nodes asks for every file again at every node, so what is asked twice is remembered here.
"""

import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...lora_core import LoadedLora
from ...lora_core.loading.loaded_lora import PlacedAdapter
from ...lora_core.weave import Decision, decide
from ...lora_core.weave.policy import LayerCost
from ...lora_core.weave.strand import can_act_beside, can_move_beside, can_stand_beside, low_rank_rank

PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DECISIONS_KEPT = 64  # of one model
_SERIALS = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """One file on one model."""

    serial: int  # never given twice, unlike an id
    beside: Sequence[PlacedAdapter]  # can act beside their layers
    patched: Sequence[PlacedAdapter]  # can't, or not cheaply: the host merges them
    ranks: Mapping[str, int]  # path of the layer -> rank of the adapters that are woven there
    is_quantised: bool  # whether a merge would round any of these layers to a coarser grid


class ModelFits:
    """The files seen with one model, and what was decided for them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, ...]] = {}  # path -> what of the layer the fits depend on
        self._fits: weakref.WeakKeyDictionary[LoadedLora, dict[Any, Fit]] = weakref.WeakKeyDictionary()
        self._decisions: dict[tuple[Any, ...], Decision] = {}
        self._modules: Mapping[str, torch.nn.Module] = {}

    def look_at(self, model: torch.nn.Module) -> "ModelFits":
        """Forget everything if the layers are no longer those that the fits were worked out for."""
        self._modules = modules_of(model)
        if any(_state(self._modules.get(path)) != state for path, state in self._seen.items()):
            self._seen.clear()
            self._fits.clear()
        return self

    def of(self, lora: LoadedLora, parts: frozenset[str], *, is_fixed: bool = True) -> Fit:
        """The fit of a file's adapters for the model's parts; at a strength that is not fixed, beside at any cost."""
        known = self._fits.setdefault(lora, {})
        fit = known.get((parts, is_fixed))
        if fit is None:
            fit = known[parts, is_fixed] = self._work_out(lora.of_parts(parts), is_fixed=is_fixed)
        return fit

    def _work_out(self, adapters: Sequence[PlacedAdapter], *, is_fixed: bool) -> Fit:
        beside: list[PlacedAdapter] = []
        patched: list[PlacedAdapter] = []
        ranks: dict[str, int] = {}
        quantised = False
        for placed in adapters:
            path = placed.place.path
            module = self._modules.get(path)
            self._seen[path] = _state(module)
            if module is None or not _can_stand(placed, module, is_fixed=is_fixed):
                patched.append(placed)
                continue
            beside.append(placed)
            rank = low_rank_rank(placed.adapter)
            if rank is not None:
                ranks[path] = ranks.get(path, 0) + rank
                quantised = quantised or is_quantised(module)
        return Fit(next(_SERIALS), beside, patched, ranks, quantised)

    def decide(self, fits: Sequence[Fit], model_bytes: int, number_bytes: int) -> Decision:
        """The mode for `auto` of these files together."""
        key = (*(fit.serial for fit in fits), model_bytes, number_bytes)
        decision = self._decisions.get(key)
        if decision is None:
            if len(self._decisions) >= DECISIONS_KEPT:
                self._decisions.clear()
            costs = self._costs(fits, number_bytes)
            quantised = any(fit.is_quantised for fit in fits)
            decision = self._decisions[key] = decide(costs, model_bytes, is_quantised=quantised)
        return decision

    def _costs(self, fits: Iterable[Fit], number_bytes: int) -> list[LayerCost]:
        ranks: dict[str, int] = {}
        for fit in fits:
            for path, rank in fit.ranks.items():
                ranks[path] = ranks.get(path, 0) + rank
        return [LayerCost(self.shape(path), rank, number_bytes) for path, rank in ranks.items()]

    def shape(self, path: str) -> tuple[int, ...]:
        """Of the weight of a layer, [out, in, *kernel]."""
        weight: Any = self._modules[path].weight
        return tuple(weight.shape)


_FITS: "weakref.WeakKeyDictionary[torch.nn.Module, ModelFits]" = weakref.WeakKeyDictionary()


def fits_of(model: torch.nn.Module) -> ModelFits:
    """The fits of a model whose layers are as they are now."""
    return _FITS.setdefault(model, ModelFits()).look_at(model)


def forget_fits() -> None:
    """Let go of what is remembered of every model."""
    _FITS.clear()


def modules_of(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Path -> module, of all below a model. As `named_modules`, without its nested generators."""
    found: dict[str, torch.nn.Module] = {}
    waiting: list[tuple[str, torch.nn.Module]] = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        for name, child in module._modules.items():  # pyright: ignore[reportPrivateUsage]
            if child is not None:
                path = prefix + name
                found[path] = child
                waiting.append((path + ".", child))
    return found


def is_quantised(module: torch.nn.Module) -> bool:
    """Whether a merge would round the module's weight to a coarser grid than its computation has."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return False
    return weight.dtype not in PLAIN_DTYPES or type(weight) not in (torch.Tensor, torch.nn.Parameter)


def _can_stand(placed: PlacedAdapter, module: torch.nn.Module, *, is_fixed: bool) -> bool:
    """Whether an adapter can act beside its layer: cheaply, or at any cost where no merge would do the same.

    A merge rounds the change of a quantised weight, and knows one strength alone.
    """
    is_bias = placed.parameter == "bias"
    if can_stand_beside(placed.adapter, module, is_bias=is_bias):
        return True
    if not is_fixed:
        return can_move_beside(placed.adapter, module, is_bias=is_bias)
    return not is_bias and is_quantised(module) and can_act_beside(placed.adapter, module)


def _state(module: torch.nn.Module | None) -> tuple[Any, ...]:
    """What of a layer a fit depends on. A dead reference equals no other."""
    if module is None:
        return ()
    weight: Any = module._parameters.get("weight")  # pyright: ignore[reportPrivateUsage]
    if weight is None:
        return (weakref.ref(module),)
    return (weakref.ref(module), weight.dtype, type(weight), weight.shape)
