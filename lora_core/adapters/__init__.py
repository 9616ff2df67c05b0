"""The algorithms: one per file, joined here into the table from the parameters of a layer to what changes it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from . import full_delta, generalized, hadamard, kronecker, low_rank, rescaling, rotation
from .base import BIAS, WEIGHT, Adapter, AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, as_weight
from .full_delta import FullDelta, Replacement
from .low_rank import LowRank
from .magnitude import with_magnitude

# Tried in order: the first whose required parameters are there, and that knows all others, builds the weight's change.
BUILDERS: Sequence[Builder] = (
    low_rank.BUILDER,
    low_rank.EMBEDDING,
    hadamard.BUILDER,
    full_delta.DIFFERENCE,
    full_delta.MODULATION,
    full_delta.NORM,
    full_delta.REPLACEMENT,
    kronecker.BUILDER,
    generalized.BUILDER,
    rotation.BUILDER,
    rescaling.LYCORIS,
    rescaling.PEFT,
)
ALPHA = "alpha"
MAGNITUDE = "magnitude"
BIASES: Mapping[str, str] = {
    "diff_bias": "full difference",
    "norm_bias": "norm",
    "up_bias": "LoRA bias",
    "set_bias": "replaced weight",
}
BESIDE = frozenset({ALPHA, MAGNITUDE, *BIASES})  # roles that stand beside any algorithm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BuiltLayer:
    """Every change that a file makes to one layer: parameter ("weight", "bias") -> what was built."""

    changes: Mapping[str, Built]


KNOWN_ROLES = frozenset(role for builder in BUILDERS for role in builder.required | builder.optional)


def find_builder(roles: Collection[str]) -> Builder | None:
    """The algorithm that a layer's parameters make up for its weight, None if they make up none."""
    own = set(roles) - BESIDE
    fitting = (b for b in BUILDERS if own >= b.required and own <= b.required | b.optional)
    return next(fitting, None) if own else None


def is_complete(roles: Collection[str]) -> bool:
    """Whether a layer's parameters can be built at all."""
    return find_builder(roles) is not None or (set(roles) <= BIASES.keys() and bool(roles))


def why_incomplete(algorithms: Mapping[str, str]) -> str:
    """The reason that a layer's parameters can't be built.

    Args:
        algorithms: role -> algorithm that the parameter's name belongs to.
    """
    foreign = {name for role, name in algorithms.items() if role not in KNOWN_ROLES and role not in BESIDE}
    if foreign:
        return f"algorithm not supported yet: {', '.join(sorted(foreign))}"
    own = algorithms.keys() - BESIDE
    if own == {"ia3_weight"}:
        return "a whole weight of the model, no adapter"
    started = [builder for builder in BUILDERS if own & (builder.required | builder.optional)]
    if len(started) > 1:
        return f"parameters of two algorithms: {', '.join(builder.algorithm for builder in started)}"
    missing = sorted(started[0].required - own) if started else ["every matrix"]
    return f"incomplete: the layer lacks {' and '.join(missing)}"


def build_layer(parts: AdapterParts, *, has_bias: bool) -> BuiltLayer:
    """What a file's tensors for one layer change. Raises BadAdapter with the reason if they make nothing that fits."""
    changes: dict[str, Built] = {}
    builder = find_builder(parts.tensors.keys())
    if builder is not None:
        changes[WEIGHT] = built = _weight(builder, parts)
        if built.bias is not None and has_bias:
            changes[BIAS] = Built(adapter=built.bias, algorithm=built.algorithm)
    for role, algorithm in BIASES.items():
        bias = parts.tensors.get(role)
        if bias is None:
            continue
        if BIAS in changes:
            raise BadAdapter("the file changes this layer's bias twice")
        if not has_bias:
            raise BadAdapter("the file changes a bias, and the layer has none")
        changes[BIAS] = Built(adapter=_bias(role, as_weight(bias, parts.shape[:1]), parts), algorithm=algorithm)
    return BuiltLayer(changes=changes)


def _bias(role: str, bias: Tensor, parts: AdapterParts) -> Adapter:
    if role == "set_bias":
        return Replacement(bias)
    down = parts.tensors.get("down")
    scale = parts.scale(down.shape[0])[0] if role == "up_bias" and down is not None else 1.0
    return FullDelta(bias, scale)


def _weight(builder: Builder, parts: AdapterParts) -> Built:
    for role in builder.required | builder.optional:
        tensor = parts.tensors.get(role)
        if tensor is not None and tensor.dim() < builder.sides:
            raise BadAdapter(f"{role} should have {builder.sides} sides, but has the shape {list(tensor.shape)}")
    try:
        built = builder.build(parts)
        magnitude = parts.tensors.get(MAGNITUDE)
        if magnitude is None:
            return built
        adapter = with_magnitude(built.adapter, magnitude, parts.shape)
    except RuntimeError as error:  # torch's word for shapes that can't be multiplied
        raise BadAdapter(f"shape mismatch: {str(error).splitlines()[0]}") from None
    return Built(adapter=adapter, algorithm=f"DoRA ({built.algorithm})", rank=built.rank, alpha=built.alpha)


__all__ = [
    "BIAS",
    "BUILDERS",
    "WEIGHT",
    "Adapter",
    "AdapterParts",
    "AdditiveAdapter",
    "BadAdapter",
    "Builder",
    "Built",
    "BuiltLayer",
    "FullDelta",
    "LowRank",
    "build_layer",
    "find_builder",
    "is_complete",
    "why_incomplete",
]
