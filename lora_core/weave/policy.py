"""Decides whether adapters act beside the layers or are merged into their weights, and says why in numbers.

The decision depends on shapes, dtypes and ranks alone, never on what ran before: the same graph gives the same image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

STEPS = 30  # of a typical run
CALLS_PER_STEP = 2  # of the model: with and without the prompt
POSITIONS = 1024  # rows of a layer's input in one call: a 64 x 64 latent at half resolution
FLOPS = 2e13  # multiplications and additions per second, of a mid-range GPU at half its peak
BANDWIDTH = 3e11  # bytes per second, of its memory
PASSES = 2  # over the output of a layer that a branch is added to
REMERGE_SECONDS = 1.0  # per GB of the model's weights; measured: facts of ComfyUI issues #5714 and #6406, CPU re-patch


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What the decision needs of one layer that adapters change."""

    shape: tuple[int, ...]  # [out, in, *kernel]
    rank: int  # of all adapters together
    bytes_per_number: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Branch or merge, and the predicted seconds that decided it."""

    is_branch: bool
    reason: str


def decide(layers: Iterable[LayerCost], model_bytes: int, *, is_quantised: bool) -> Decision:
    """The mode for `auto`.

    Args:
        layers: those that adapters with a low-rank form change.
        model_bytes: of all weights, which the host loads again when a strength changes.
        is_quantised: whether any of the layers' weights would be rounded again by a merge.
    """
    if is_quantised:
        return Decision(is_branch=True, reason="the weights are quantised, and a merge would round the change away")
    branch = STEPS * CALLS_PER_STEP * sum(map(_branch_seconds, layers))
    merge = REMERGE_SECONDS * model_bytes / 1e9
    figures = f"predicted {branch:.1f} s in {STEPS} steps beside the layers, {merge:.1f} s to merge a changed strength"
    return Decision(is_branch=branch <= merge, reason=figures)


def _branch_seconds(layer: LayerCost) -> float:
    """One call of one layer's branch: 2 T R (m n + m) / F + passes T m b / B."""
    out, inputs = layer.shape[0], 1
    for side in layer.shape[1:]:
        inputs *= side
    multiplications = 2 * POSITIONS * layer.rank * (out + inputs)
    moved = PASSES * POSITIONS * out * layer.bytes_per_number
    return multiplications / FLOPS + moved / BANDWIDTH
