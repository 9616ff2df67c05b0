"""Merges that are weighted sums of the deltas: the exact sum, and the great circle between two."""

import math

from ..deltas.factored import Factored, concat, dot
from .layer_deltas import LayerDeltas, MergeSettings

PARALLEL = 1e-6  # radians; deltas this near to one line have no great circle, and the sum is meant


def exact_sum(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """delta = sum_i strength_i * delta_i: what applying the files one after another does."""
    return concat(sources.deltas)


def slerp(sources: LayerDeltas, settings: MergeSettings) -> Factored:
    """The direction goes along the great circle from delta_1 to delta_2, the norm is the sum of both norms.

    delta = (|d1| + |d2|) * (sin((1 - t) a) d1/|d1| + sin(t a) d2/|d2|) / sin(a), with d_i = strength_i * delta_i,
    a the angle between d1 and d2 and t = |strength_2| / (|strength_1| + |strength_2|).
    Of the deltas, never of their factors. Source: Shoemake 1985; mergekit's merge_methods.slerp for the use here.
    """
    if len(sources.deltas) == 1:
        return sources.deltas[0]
    first, second = sources.deltas
    norms = first.norm(), second.norm()
    if not all(norms):
        return concat(sources.deltas)
    angle = math.acos(max(-1.0, min(1.0, dot(first, second) / (norms[0] * norms[1]))))
    if min(angle, math.pi - angle) < PARALLEL:
        return concat(sources.deltas)
    share = abs(sources.strengths[1]) / (abs(sources.strengths[0]) + abs(sources.strengths[1]))
    length = sum(norms) / math.sin(angle)
    return concat(
        [
            first.times(length * math.sin((1 - share) * angle) / norms[0]),
            second.times(length * math.sin(share * angle) / norms[1]),
        ]
    )
