"""What every adapter can do, and what it takes to build one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .whole_file import WholeFile

WEIGHT = "weight"
BIAS = "bias"


class BadAdapter(Exception):
    """The tensors of one layer don't make an adapter for its target; the text is the reason a report gives."""


class FrozenLayer(Protocol):
    """A layer of the model as it is, for adapters that act beside it and not in its weight."""

    def weight(self) -> Tensor:
        """A float32 copy of its weight, dequantised: [out, in, *kernel]."""
        ...

    def linear(self, x: Tensor) -> Tensor:
        """Its own operation without its bias, on its own, perhaps quantised, weight."""
        ...

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """The same operation (stride, padding, groups) with another weight in x's dtype, and no bias.

        The weight may have any number of outputs, and of inputs where the operation has one group.
        """
        ...


class Adapter(ABC):
    """A change of one parameter of a layer, linear in strength: parameter' = parameter + strength * delta.

    Subclasses are frozen dataclasses. `delta` may depend on the parameter found, see each one's equation.
    Merged, an adapter adds strength * delta to the weight; beside the layer, strength * branch to the output: the same.
    """

    __slots__ = ()

    @abstractmethod
    def delta_of(self, weight: Tensor) -> Tensor:
        """The change at strength 1 of a float32 weight: the same shape, float32, the file's scale included."""

    def add_delta_(self, weight: Tensor, strength: float) -> None:
        """Add strength * delta to a weight [out, in, *kernel], in place; the delta is computed in float32."""
        delta = self.delta_of(weight.float())
        weight.add_(delta.mul_(strength).reshape(weight.shape).to(weight.dtype))

    def room_for(self, weight: Tensor) -> Tensor:
        """The weight in the shape that the change is for: itself, but for layers that a file enlarges."""
        return weight

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """What the adapter adds to a layer's output at strength 1, in the output's dtype.

        Args:
            x: the layer's input, [..., in], or [batch, in, *picture] of a convolution.
            plain: layer.linear(x), [..., out] or [batch, out, *picture].
            layer: the layer; for an adapter of some rows of a weight, those rows of it (see LayerRows).
        """
        return layer.apply(as_input(self.delta_of(layer.weight()), x), x)

    def prepared(self, weight: Tensor) -> "Adapter":
        """The same adapter with all that is constant worked out once, so that its branch reads no weight if it can.

        Args:
            weight: the layer's, float32, [out, in, *kernel]; it is not kept, but the result is for this weight alone.
        """
        return self

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that hold the adapter and those inside of it, in the order `with_tensors` takes them."""
        return tuple(tensor for _, value in self._values() for tensor in _tensors_in(value))

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "Adapter":
        """The same adapter on other copies of its tensors, such as ones on another device."""
        if len(tensors) != len(self.tensors()):
            raise ValueError(f"{type(self).__name__} holds {len(self.tensors())} tensors, not {len(tensors)}")
        left = iter(tensors)
        changes: dict[str, Any] = {name: _with_tensors(value, left) for name, value in self._values()}
        return replace(self, **changes)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]

    def _values(self) -> list[tuple[str, Any]]:
        names = [field.name for field in fields(self)]  # pyright: ignore[reportArgumentType]
        return [(name, getattr(self, name)) for name in names]


def _tensors_in(value: Any) -> tuple[Tensor, ...]:
    """Of a field: a tensor, an adapter, or several adapters."""
    match value:
        case Tensor():
            return (value,)
        case Adapter():
            return value.tensors()
        case tuple():
            return tuple(t for one in cast("tuple[Any, ...]", value) if isinstance(one, Adapter) for t in one.tensors())
        case _:
            return ()


def _with_tensors(value: Any, left: Iterator[Tensor]) -> Any:
    """The field with the next tensors in the place of its own."""
    match value:
        case Tensor():
            return next(left)
        case Adapter():
            return value.with_tensors(tuple(next(left) for _ in value.tensors()))
        case tuple():
            several = cast("tuple[Any, ...]", value)
            return tuple(_with_tensors(one, left) if isinstance(one, Adapter) else one for one in several)
        case _:
            return value


class AdditiveAdapter(Adapter):
    """An adapter whose delta does not depend on the weight it changes."""

    __slots__ = ()

    @abstractmethod
    def delta(self) -> Tensor:
        """The change at strength 1: [out, in, *kernel], float32, the scale of the file included."""

    def delta_of(self, weight: Tensor) -> Tensor:
        """See Adapter.delta_of; on the weight's device."""
        return self.delta().to(weight.device)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch; reads no weight."""
        return layer.apply(as_input(self.delta(), x), x)


def as_input(tensor: Tensor, x: Tensor) -> Tensor:
    """A tensor on the device of a layer's input and in its dtype, or in its own where the input is indices."""
    return tensor.to(x.device, x.dtype if x.is_floating_point() else tensor.dtype)


class ScaleOf(Protocol):
    """The rule of one layer: rank -> (scale, alpha)."""

    def __call__(self, rank: int) -> tuple[float, float]:
        """Scale and alpha for a rank."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterParts:
    """What a file gives for one layer, and the layer it is for."""

    tensors: Mapping[str, Tensor]  # role -> tensor, in the file's dtype
    shape: tuple[int, ...]  # of the target's weight, or of the rows of it that are meant
    scale: ScaleOf
    alpha: float | None = None  # the layer's own alpha tensor, where it is no divisor of a rank
    fixed_scale: float | None = None  # what a layer's own `scale` says, instead of alpha / rank
    name: str = ""  # the layer's, as the file spells it behind its prefix
    whole: WholeFile = field(default_factory=WholeFile)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Built:
    """An adapter and what a report says of it."""

    adapter: Adapter
    algorithm: str
    rank: int | None = None  # None where the algorithm has none
    alpha: float | None = None
    bias: Adapter | None = None  # what the algorithm does to the layer's bias, where it has one
    note: str = ""  # what a report should say beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """How one algorithm is recognised by its parameters and built from them."""

    algorithm: str
    required: frozenset[str]  # roles; all must be there
    optional: frozenset[str] = frozenset()  # roles; may be there, and no others
    sides: int = 2  # that each tensor has at least
    weight_sides: int = 1  # that the layer's weight has at least
    build: Callable[[AdapterParts], Built]  # raises BadAdapter


def as_weight(delta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A delta in the weight's shape, by element count: a 1x1 convolution and a Linear layer are the same matrix.

    Raises BadAdapter naming both shapes.
    """
    if delta.numel() != torch.Size(shape).numel() or delta.shape[:1] != shape[:1]:
        raise BadAdapter(f"shape mismatch: the layer is {list(shape)}, the file gives {list(delta.shape)}")
    return delta.reshape(shape)


def check_shape(adapter: AdditiveAdapter, shape: tuple[int, ...]) -> None:
    """Work the delta out in shapes alone, so that a misfit is told when a file is read and not when it is applied.

    Raises BadAdapter, or torch's RuntimeError where the factors don't fit each other.
    """
    made_of = tuple(_shape_of(getattr(adapter, field.name)) for field in fields(adapter))  # pyright: ignore[reportArgumentType]
    key = (type(adapter), made_of, tuple(shape))
    if key in FITTING:
        return
    if len(FITTING) >= FITTING_AT_MOST:
        FITTING.clear()
    shapes = adapter.with_tensors(tuple(tensor.to("meta") for tensor in adapter.tensors()))
    as_weight(shapes.delta_of(torch.empty(shape, device="meta")), shape)
    FITTING.add(key)


FITTING: set[object] = set()  # (class, shapes of its fields, weight's shape) that were worked out: layers repeat
FITTING_AT_MOST = 10_000


def _shape_of(value: object) -> object:
    """What of a field decides the delta's shape: a tensor's own shape, no scale, anything else as it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return None if isinstance(value, float) else repr(value)
