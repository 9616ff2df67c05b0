"""The table of merging methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ..deltas.factored import Factored
from . import elementwise, linear, spectral
from .layer_deltas import LayerDeltas, MergeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to merge the deltas of a layer."""

    merge: Callable[[LayerDeltas, MergeSettings], Factored]
    about: str  # for a person who chooses
    exact: bool = False  # the result is the weighted sum, but for what a rank limit cuts
    cuts: bool = True  # whether the rank of the result may be limited
    files: int | None = None  # the number of files it takes; None for any
    reads: frozenset[str] = frozenset()  # fields of MergeSettings


def _in_core(thin: elementwise.Thin, join: elementwise.Join) -> Callable[[LayerDeltas, MergeSettings], Factored]:
    return partial(elementwise.merged_in_core, thin=thin, join=join)


DENSITY, SEEDED = frozenset({"density"}), frozenset({"density", "seed"})
METHODS: Mapping[str, Method] = {
    "concat": Method(
        merge=linear.exact_sum,
        about="the exact weighted sum; the ranks add up",
        exact=True,
        cuts=False,
    ),
    "svd": Method(
        merge=linear.exact_sum,
        about="the exact weighted sum, cut to a rank, energy, error or size with the least error there is",
        exact=True,
    ),
    "svc": Method(
        merge=spectral.calibrated, about="the sum, with directions that several files share not counted again and again"
    ),
    "tsv": Method(
        merge=spectral.decorrelated, about="the sum of all singular directions, made orthogonal to each other"
    ),
    "knots": Method(
        merge=spectral.aligned, about="TIES in the coordinates that the files have in common", reads=DENSITY
    ),
    "orthogonal": Method(
        merge=spectral.orthogonal, about="each file without the directions of those before it; the first one leads"
    ),
    "slerp": Method(
        merge=linear.slerp, about="the way on the great circle between two files; keeps their norm", files=2
    ),
    "ties": Method(
        merge=_in_core(elementwise.keep_largest, elementwise.add_agreeing),
        about="the largest entries of each file, where they agree in sign",
        reads=DENSITY,
    ),
    "dare": Method(
        merge=_in_core(elementwise.drop_and_rescale, elementwise.add_up),
        about="random entries dropped, the others rescaled, then summed",
        reads=SEEDED,
    ),
    "dare-ties": Method(
        merge=_in_core(elementwise.drop_and_rescale, elementwise.add_agreeing),
        about="as dare, then only entries that agree in sign",
        reads=SEEDED,
    ),
    "della": Method(
        merge=_in_core(elementwise.drop_by_rank_and_rescale, elementwise.add_agreeing),
        about="as dare-ties, small entries dropped more often",
        reads=SEEDED | {"spread"},
    ),
    "della-linear": Method(
        merge=_in_core(elementwise.drop_by_rank_and_rescale, elementwise.add_up),
        about="as dare, small entries dropped more often",
        reads=SEEDED | {"spread"},
    ),
    "prune": Method(
        merge=_in_core(elementwise.keep_largest, elementwise.add_up),
        about="the largest entries of each file, summed",
        reads=DENSITY,
    ),
}
