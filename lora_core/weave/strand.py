"""One adapter of one layer as part of a weave, and which adapters can act beside which modules."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ..adapters import Adapter, Enlarged, LowRank
from ..adapters.full_delta import FullDelta, Replacement
from ..adapters.row_order import SwappedHalves
from ..loading.loaded_lora import PlacedAdapter
from ..names.target_layer import Rows
from .frozen_module import NORMS, is_linear, is_plain_convolution


@dataclass(frozen=True, slots=True, eq=False)
class Strand:
    """An adapter of a layer, and which of the plan's strengths it has."""

    adapter: Adapter
    number: int  # of the file in the plan
    rows: Rows | None
    is_bias: bool = False


def strand(placed: PlacedAdapter, number: int) -> Strand:
    """A placed adapter as a strand of its layer, with swapped halves put in the model's order where that is exact."""
    adapter = placed.adapter
    found = _low_rank(adapter)
    if found is not None and found is not adapter:
        adapter = replace(found, up=torch.roll(found.up, found.up.shape[0] // 2, dims=0))
    return Strand(adapter, number, placed.place.rows, placed.parameter == "bias")


def can_stand_beside(adapter: Adapter, module: nn.Module, *, is_bias: bool) -> bool:
    """Whether an adapter's change can be added to the module's output instead of its parameters, and cheaply."""
    if not (is_linear(module) or is_plain_convolution(module)):
        return False
    return isinstance(adapter, FullDelta) if is_bias else _low_rank(adapter) is not None


def can_act_beside(adapter: Adapter, module: nn.Module) -> bool:
    """Whether any exact branch exists, at whatever cost: for weights that must not be written."""
    return (is_linear(module) or is_plain_convolution(module)) and not isinstance(adapter, Enlarged)


def can_move_beside(adapter: Adapter, module: nn.Module, *, is_bias: bool) -> bool:
    """Whether any exact branch exists, for strengths that a merge can't follow; those of norms are only cheap enough
    for that."""
    if is_bias:
        return isinstance(adapter, FullDelta) and (can_act_beside(adapter, module) or isinstance(module, NORMS))
    if isinstance(module, NORMS):
        return isinstance(adapter, FullDelta | Replacement)
    return can_act_beside(adapter, module)


def low_rank_rank(adapter: Adapter) -> int | None:
    """The rank of an adapter that is woven into the pair of matrices; None for any other."""
    found = _low_rank(adapter)
    return None if found is None else found.up.shape[1]


def _low_rank(adapter: Adapter) -> LowRank | None:
    if isinstance(adapter, LowRank):
        return adapter
    if isinstance(adapter, SwappedHalves) and isinstance(adapter.base, LowRank):
        return adapter.base
    return None


def low_rank_of(one: Strand) -> LowRank:
    """The adapter of a strand that is known to be low-rank."""
    assert isinstance(one.adapter, LowRank)
    return one.adapter
