"""Turns what one layer's deltas can't do into the error of the whole work."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from ..errors import NotMergeable
from .deltas.adapter_to_factored import NeedsWeight
from .deltas.factored import LARGEST, Factored


@contextmanager
def readable(what: str, name: str) -> Generator[None]:
    """Inside, a delta that depends on a weight that is not at hand raises NotMergeable.

    what: can't be done to what. name: of the layer.
    """
    try:
        yield
    except NeedsWeight as reason:
        raise NotMergeable(what, [f"'{name}' ({reason})"]) from None


def check_range(what: str, name: str, deltas: Iterable[Factored]) -> None:
    """Raise NotMergeable where a number, or the square of a norm, would leave float64."""
    if not all(delta.is_in_range() for delta in deltas):
        raise NotMergeable(what, [f"'{name}' (its numbers are beyond {LARGEST:g})"])
