"""From the parameters that a file has for a layer to what changes it: the table of algorithms, tried in order."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from . import (
    adaptive_rank,
    full_delta,
    generalized,
    hadamard,
    input_rotation,
    kronecker,
    low_rank,
    magnitude,
    rescaling,
    rotation,
    shared_projection,
)
from .base import BIAS, WEIGHT, Adapter, AdapterParts, AdditiveAdapter, BadAdapter, Builder, Built, as_weight
from .enlarged import Enlarged
from .full_delta import FullDelta, Replacement

# Tried in order: the first whose required parameters are there, and that knows all others, builds the weight's change.
BUILDERS: Sequence[Builder] = (
    low_rank.BUILDER,
    low_rank.EMBEDDING,
    adaptive_rank.BUILDER,
    hadamard.BUILDER,
    full_delta.DIFFERENCE,
    full_delta.MODULATION,
    full_delta.NORM,
    full_delta.REPLACEMENT,
    kronecker.BUILDER,
    generalized.BUILDER,
    rotation.BUILDER,
    rotation.GIVEN,
    rotation.IN_RUNS,
    input_rotation.OFT,
    input_rotation.BOFT,
    rescaling.LYCORIS,
    rescaling.PEFT,
    shared_projection.BUILDER,
)
ALPHA = "alpha"
SCALE = "scale"  # as A1111 reads it: in the place of alpha / rank, whatever the algorithm
RESHAPE = "reshape"  # the weight is padded with zeros to this shape before it is changed
BIASES: Mapping[str, str] = {
    "diff_bias": "full difference",
    "norm_bias": "norm",
    "up_bias": "LoRA bias",
    "set_bias": "replaced weight",
}
# Roles that stand beside any algorithm.
BESIDE = frozenset({ALPHA, SCALE, RESHAPE, magnitude.EITHER, magnitude.PER_OUTPUT, *BIASES})


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
    if own == {"ia3_weight"} or set(algorithms) == {SCALE}:
        return "a whole weight of the model, no adapter"
    fitting = [builder for builder in BUILDERS if own and own <= builder.required | builder.optional]
    if fitting:
        missing = sorted(fitting[0].required - own)
    else:
        started = _algorithms_of(own)
        if len(started) > 1:
            return f"parameters of two algorithms: {', '.join(started)}"
        missing = ["every matrix"]
    return f"incomplete: the layer lacks {' and '.join(missing)}"


def _algorithms_of(roles: Collection[str]) -> list[str]:
    """The algorithms that roles come from, the first that knows each."""
    names = [next((b.algorithm for b in BUILDERS if role in b.required | b.optional), role) for role in sorted(roles)]
    return list(dict.fromkeys(names))


def build_layer(parts: AdapterParts, *, has_bias: bool) -> BuiltLayer:
    """What a file's tensors for one layer change. Raises BadAdapter with the reason if they make nothing that fits."""
    parts = _with_own_scale(parts)
    changes: dict[str, Built] = {}
    builder = find_builder(parts.tensors.keys())
    if builder is not None:
        changes[WEIGHT] = built = _perhaps_enlarged(builder, parts)
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
    if len(parts.shape) < builder.weight_sides:
        raise BadAdapter(f"{builder.algorithm} changes a matrix, but the model's parameter is {list(parts.shape)}")
    for role in builder.required | builder.optional:
        tensor = parts.tensors.get(role)
        if tensor is not None and tensor.dim() < builder.sides:
            raise BadAdapter(f"{role} should have {builder.sides} sides, but has the shape {list(tensor.shape)}")
    try:
        built = builder.build(parts)
    except RuntimeError as error:  # torch's word for shapes that can't be multiplied
        raise BadAdapter(f"shape mismatch: {str(error).splitlines()[0]}") from None
    sizes = magnitude.magnitudes(parts.tensors, parts.shape)
    if sizes is None:
        return built
    if not isinstance(built.adapter, AdditiveAdapter):
        raise BadAdapter(f"magnitudes (DoRA) came with {built.algorithm}, whose delta depends on the weight")
    adapter = magnitude.Magnitude(built.adapter, *sizes)
    return replace(built, adapter=adapter, algorithm=f"DoRA ({built.algorithm})")


def _with_own_scale(parts: AdapterParts) -> AdapterParts:
    """The parts with the scale that the layer's own `scale` gives, where it has one."""
    own = parts.tensors.get(SCALE)
    if own is None or own.is_meta:
        return parts
    if own.numel() != 1:
        raise BadAdapter(f"scale should be one number, but has the shape {list(own.shape)}")
    scale = float(own.double().item())

    def fixed(rank: int) -> tuple[float, float]:
        return scale, scale * rank

    return replace(parts, fixed_scale=scale, scale=fixed)


def _perhaps_enlarged(builder: Builder, parts: AdapterParts) -> Built:
    shape = _wanted_shape(parts)
    if shape == parts.shape:
        return _weight(builder, parts)
    if len(shape) != len(parts.shape) or any(wanted < found for wanted, found in zip(shape, parts.shape, strict=True)):
        raise BadAdapter(f"the file is for a layer enlarged to {list(shape)}; this model's is {list(parts.shape)}")
    built = _weight(builder, replace(parts, shape=shape))
    note = f"the weight is enlarged from {list(parts.shape)} to {list(shape)}, for inputs that the model lacks"
    return replace(built, adapter=Enlarged(built.adapter, shape), note=note)


def _wanted_shape(parts: AdapterParts) -> tuple[int, ...]:
    """The shape that a file means a layer to have: by its own word, or as control LoRAs are known to."""
    wanted, down = parts.tensors.get(RESHAPE), parts.tensors.get("down")
    if wanted is not None and not wanted.is_meta:
        return tuple(int(wanted.flatten()[number].item()) for number in range(wanted.numel()))
    if parts.whole.enlarges and down is not None and down.dim() == len(parts.shape):
        return (parts.shape[0], max(down.shape[1], parts.shape[1]), *parts.shape[2:])
    return parts.shape
