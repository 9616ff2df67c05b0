"""What every adapter can do, and what it takes to build one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


class BadAdapter(Exception):
    """The tensors of one layer don't make an adapter for its target; the text is the reason a report gives."""


class Adapter(ABC):
    """A change of one layer's weight: weight' = weight + strength * delta."""

    __slots__ = ()

    @abstractmethod
    def delta(self) -> Tensor:
        """The change at strength 1: [out, in, *kernel], float32, the scale of the file included."""

    @abstractmethod
    def add_delta_(self, weight: Tensor, strength: float) -> None:
        """Add strength * delta to a weight [out, in, *kernel], in place, computed in float32."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that hold the adapter, in the order `with_tensors` takes them."""

    @abstractmethod
    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "Adapter":
        """The same adapter on other copies of its tensors, such as ones on another device."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterParts:
    """What a file gives for one layer, and the layer it is for."""

    tensors: Mapping[str, Tensor]  # role -> tensor, in the file's dtype
    shape: tuple[int, ...]  # of the target's weight, or of the rows of it that are meant
    scale: Callable[[int], tuple[float, float]]  # rank -> (scale, alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An adapter and what a report says of it."""

    adapter: Adapter
    algorithm: str
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """How one algorithm is recognised by its parameters and built from them."""

    algorithm: str
    required: frozenset[str]  # roles
    optional: frozenset[str]  # roles
    build: Callable[[AdapterParts], Built]  # raises BadAdapter
