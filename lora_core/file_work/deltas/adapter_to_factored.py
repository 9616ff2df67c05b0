"""Turns any adapter into the factors of its delta, exactly, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...adapters.base import Adapter, AdditiveAdapter
from ...adapters.enlarged import Enlarged
from ...adapters.full_delta import FullDelta, Replacement
from ...adapters.generalized import Generalized
from ...adapters.hadamard import Hadamard
from ...adapters.input_rotation import InputRotation, InputTurning
from ...adapters.kronecker import Kronecker
from ...adapters.low_rank import LowRank
from ...adapters.magnitude import Magnitude
from ...adapters.rescaling import Rescaling
from ...adapters.rotation import Rotation, Turning
from ...adapters.row_order import SomeRows, SwappedHalves
from ...adapters.row_runs import RowRuns
from ...adapters.shared_projection import SharedProjection
from ...adapters.tucker import tucker
from .factored import DENSE_FROM, EXACT, Factored, concat, whole
from .kronecker_product import KroneckerProduct

SMALL = 512  # of the smaller side of a Kronecker factor; the decomposition of a larger one costs seconds
WeightOf = Callable[[], Tensor]  # reads the weight that an adapter changes: [out, in, *kernel], float32


class NeedsWeight(Exception):
    """The delta depends on the weight that it changes, and there is none at hand; the text says which algorithm."""


def factored(adapter: Adapter, weight: WeightOf | None = None) -> Factored:
    """The delta of an adapter of a matrix or convolution, [out, in * kernel], as factors of the least rank known.

    Args:
        adapter: of a weight with two sides or more.
        weight: reads that weight, for algorithms whose delta depends on it; None where it is not at hand.

    Raises NeedsWeight.
    """
    make = FACTORED.get(type(adapter))
    if make is not None:
        made = make(adapter, weight)
        if made.rank <= min(made.shape):
            return made
        return whole(made.dense())
    return whole(delta_of(adapter, weight).flatten(1))


def delta_of(adapter: Adapter, weight: WeightOf | None = None) -> Tensor:
    """The delta of an adapter of any parameter, float32. Raises NeedsWeight."""
    reason = why_no_delta(adapter, has_weight=weight is not None)
    if reason is not None:
        raise NeedsWeight(reason)
    if weight is None:
        return adapter.delta() if isinstance(adapter, AdditiveAdapter) else _turned_delta(adapter)
    return adapter.delta_of(weight().float())


def why_no_delta(adapter: Adapter, *, has_weight: bool) -> str | None:
    """Why an adapter has no delta in the model's own shape, or none without its weight; None where it has."""
    match adapter:
        case Enlarged():
            return "it enlarges the layer, which a delta of the model's own shape can't"
        case AdditiveAdapter():
            return None
        case SwappedHalves():
            return why_no_delta(adapter.base, has_weight=has_weight)
        case RowRuns():
            reasons = (why_no_delta(run, has_weight=has_weight) for run in adapter.runs)
            return next((reason for reason in reasons if reason), None)
        case _ if has_weight:
            return None
        case _:
            return f"{ALGORITHMS.get(type(adapter), type(adapter).__name__)} depends on the model's weight"


def _turned_delta(adapter: Adapter) -> Tensor:
    """Of an adapter that only puts the rows of an additive one in another order."""
    assert isinstance(adapter, SwappedHalves)  # all others have factors of their own, or need the weight
    inside = delta_of(adapter.base)
    return torch.roll(inside, inside.shape[0] // 2, dims=0)


def _low_rank(adapter: LowRank, weight: WeightOf | None) -> Factored:
    down = adapter.down.to(EXACT)
    if adapter.mid is not None:
        down = torch.einsum("mn...,ni->mi...", adapter.mid.to(EXACT), down).flatten(1)
    return Factored(adapter.up.to(EXACT) * adapter.scale, down)


def _full(adapter: FullDelta, weight: WeightOf | None) -> Factored:
    return whole(adapter.difference.to(EXACT).flatten(1) * adapter.scale)


def _shared(adapter: SharedProjection, weight: WeightOf | None) -> Factored:
    up = adapter.b.to(EXACT) * adapter.outputs.to(EXACT)[:, None]
    return Factored(up, adapter.a.to(EXACT) * adapter.ranks.to(EXACT)[:, None])


def _hadamard(adapter: Hadamard, weight: WeightOf | None) -> Factored:
    """(B1 A1) o (B2 A2) = (B1 face-split B2)(A1 Khatri-Rao A2), of rank r^2. Source: Slyusar 1999."""
    rank = adapter.w1_b.shape[0]
    if adapter.t1 is not None or rank**2 > min(adapter.w1_a.shape[0], adapter.w1_b.shape[1]):
        return whole(adapter.delta().flatten(1))
    first_up, second_up = adapter.w1_a.to(EXACT), adapter.w2_a.to(EXACT)
    first_down, second_down = adapter.w1_b.to(EXACT), adapter.w2_b.to(EXACT)
    up = (first_up[:, :, None] * second_up[:, None, :]).flatten(1)
    down = (first_down[:, None, :] * second_down[None, :, :]).flatten(0, 1)
    return Factored(up * adapter.scale, down)


def _kronecker(adapter: Kronecker, weight: WeightOf | None) -> Factored:
    """kron(W1, W2) by the singular triples of W1 and W2, which are small: rank(W1) * rank(W2) products of them."""
    first = _factor(adapter.w1, adapter.w1_a, adapter.w1_b)
    if adapter.t2 is not None and adapter.w2_a is not None and adapter.w2_b is not None:
        second = whole(tucker(adapter.t2.to(EXACT), adapter.w2_a.to(EXACT), adapter.w2_b.to(EXACT)).flatten(1))
    else:
        second = _factor(adapter.w2, adapter.w2_a, adapter.w2_b)
    first = first.times(adapter.scale)
    shape = first.shape[0] * second.shape[0], first.shape[1] * second.shape[1]
    if max(_least(first), _least(second)) > SMALL:
        return whole(torch.kron(first.dense(), second.dense()))
    product = KroneckerProduct(first.spectrum, second.spectrum)
    if product.rank > DENSE_FROM * min(shape):
        return whole(torch.kron(first.dense(), second.dense()), product)
    left, values, right = product.leading(product.rank)
    return Factored(left * values, right, kronecker=product)


def _least(factor: Factored) -> int:
    """The side of the matrix whose decomposition gives a factor's spectrum."""
    return min(*factor.shape, factor.rank)


def _factor(given: Tensor | None, a: Tensor | None, b: Tensor | None) -> Factored:
    if given is not None:
        return whole(given.to(EXACT).flatten(1))
    assert a is not None and b is not None  # the builder saw that one form is complete
    return Factored(a.to(EXACT), b.to(EXACT).flatten(1))


def _swapped(adapter: SwappedHalves, weight: WeightOf | None) -> Factored:
    def turned() -> Tensor:
        assert weight is not None
        found = weight()
        return torch.roll(found, found.shape[0] // 2, dims=0)

    base = factored(adapter.base, None if weight is None else turned)
    half = base.up.shape[0] // 2
    if base.product is not None:
        return whole(torch.roll(base.product, half, dims=0))
    return Factored(torch.roll(base.up, half, dims=0), base.down)


def _some_rows(adapter: SomeRows, weight: WeightOf | None) -> Factored:
    base = factored(adapter.base, weight)
    return rows_of(base, adapter.start, adapter.stop)


def _runs(adapter: RowRuns, weight: WeightOf | None) -> Factored:
    """The runs one below the other, each with columns of its own."""
    out = adapter.shape[0]
    parts: list[Factored] = []
    for run, (start, stop) in zip(adapter.runs, adapter.spans(), strict=True):
        own = None if weight is None else _RowsOf(weight, start, stop)
        parts.append(padded(factored(run, own), start, out))
    return concat(parts)


class _RowsOf:
    """Reads some rows of a weight."""

    def __init__(self, weight: WeightOf, start: int, stop: int) -> None:
        self._weight = weight
        self._rows = start, stop

    def __call__(self) -> Tensor:
        return self._weight()[self._rows[0] : self._rows[1]]


def rows_of(delta: Factored, start: int, stop: int) -> Factored:
    """The rows [start, stop) of a delta, without the columns of up that these rows don't use."""
    if (start, stop) == (0, delta.up.shape[0]):
        return delta
    if delta.product is not None:
        return whole(delta.product[start:stop])
    up = delta.up[start:stop]
    used = up.ne(0).any(dim=0)
    return Factored(up, delta.down) if bool(used.all()) else Factored(up[:, used], delta.down[used])


def padded(delta: Factored, start: int, out: int) -> Factored:
    """The delta as rows from `start` on of one with `out` rows; the others are 0."""
    if delta.up.shape[0] == out:
        return delta
    if delta.product is not None:
        product = delta.product.new_zeros(out, delta.product.shape[1])
        product[start : start + delta.product.shape[0]] = delta.product
        return whole(product)
    up = delta.up.new_zeros(out, delta.rank)
    up[start : start + delta.up.shape[0]] = delta.up
    return Factored(up, delta.down)


FACTORED: Mapping[type, Callable[[Any, WeightOf | None], Factored]] = {
    LowRank: _low_rank,
    FullDelta: _full,
    SharedProjection: _shared,
    Hadamard: _hadamard,
    Kronecker: _kronecker,
    SwappedHalves: _swapped,
    SomeRows: _some_rows,
    RowRuns: _runs,
}
ALGORITHMS: Mapping[type, str] = {  # class -> the name that people know
    Magnitude: "DoRA",
    Replacement: "a replaced weight",
    Generalized: "GLoRA",
    Rescaling: "IA3",
    Rotation: "OFT",
    Turning: "OFT",
    InputRotation: "OFT",
    InputTurning: "OFT",
}
