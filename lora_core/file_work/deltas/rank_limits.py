"""Decides how many singular values a layer keeps: by rank, energy, error, ratio, or a size for the whole file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ...errors import BadSetting

MIB = 1024**2  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLimits:
    """What a layer may keep. Each limit that is given asks for a rank; the smallest of them is kept."""

    rank: int | None = None
    energy: float | None = None  # share of the squared Frobenius norm to keep, 0..1
    error: float | None = None  # of the change, |delta - kept| / |delta|
    frobenius: float | None = None  # |delta - kept| itself
    ratio: float | None = None  # keep values of at least the largest one's part in `ratio`
    worth: float | None = None  # keep values whose square per number stored is at least this, see within_size

    def __post_init__(self) -> None:
        """Raises BadSetting for limits that no layer can meet."""
        for name, (low, high, wanted) in BOUNDS.items():
            limit = getattr(self, name)
            if limit is not None and not low <= limit <= high:
                raise BadSetting(f"{name} should be {wanted}, but is {limit:g}")

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def keep(self, values: Tensor, shape: tuple[int, int], missing: float = 0.0) -> int:
        """The rank that a layer keeps.

        Args:
            values: its singular values, falling: [count].
            shape: [out, in] of the delta.
            missing: squared norm of what the values leave out, for a spectrum that is known in part.
        """
        layer = _Layer(values, shape, missing)
        asked = [ask(layer, getattr(self, name)) for name, ask in ASK.items() if getattr(self, name) is not None]
        return min([values.numel(), *asked])


@dataclass(frozen=True, slots=True)
class _Layer:
    values: Tensor
    shape: tuple[int, int]
    missing: float

    def left_out(self) -> Tensor:
        """Squared norm of what each rank from 0 leaves out: [count + 1], summed from the smallest value on."""
        tail = torch.flip(torch.cumsum(torch.flip(self.values.square(), [0]), 0), [0])
        return torch.cat([tail, tail.new_zeros(1)]) + self.missing

    def smallest_leaving(self, most: float) -> int:
        """The smallest rank that leaves out at most a squared norm."""
        return int((self.left_out() > most).sum())


def _of_energy(layer: _Layer, energy: float) -> int:
    return layer.smallest_leaving((1.0 - energy) * float(layer.left_out()[0]))


def _of_error(layer: _Layer, error: float) -> int:
    return layer.smallest_leaving(error**2 * float(layer.left_out()[0]))


def _of_frobenius(layer: _Layer, error: float) -> int:
    return layer.smallest_leaving(error**2)


def _of_ratio(layer: _Layer, ratio: float) -> int:
    return int((layer.values * ratio >= layer.values[:1]).sum())


def _of_worth(layer: _Layer, worth: float) -> int:
    return int((layer.values.square() >= worth * sum(layer.shape)).sum())


ASK: Mapping[str, Callable[[_Layer, float], int]] = {
    "rank": lambda layer, rank: int(rank),
    "energy": _of_energy,
    "error": _of_error,
    "frobenius": _of_frobenius,
    "ratio": _of_ratio,
    "worth": _of_worth,
}
INFINITE = float("inf")
BOUNDS: Mapping[str, tuple[float, float, str]] = {
    "rank": (1, 1 << 20, "a whole number from 1"),
    "energy": (0.0, 1.0, "a share from 0 to 1"),
    "error": (0.0, 1.0, "a share from 0 to 1"),
    "frobenius": (0.0, INFINITE, "0 or more"),
    "ratio": (1.0, INFINITE, "1 or more"),
    "worth": (0.0, INFINITE, "0 or more"),
}


def within_size(
    limits: RankLimits, spectra: Sequence[tuple[Tensor, tuple[int, int]]], size: int, number_bytes: int
) -> RankLimits:
    """The limits with the one on worth that makes the matrices of all layers fit a size together.

    A value costs the numbers of its column and row. Taking values by falling square per number spends a size best:
    the error of the whole file is the smallest for its bytes (but for the last value, which may not fit).

    Args:
        limits: that hold beside it.
        spectra: of each layer, the singular values and [out, in].
        size: bytes for the tensors of all layers.
        number_bytes: of one number as it is stored.
    """
    kept = [(values[: limits.keep(values, shape)], sum(shape)) for values, shape in spectra]
    if not kept or not any(values.numel() for values, _ in kept):
        return limits
    worths = torch.cat([values.square() / cost for values, cost in kept])
    costs = torch.cat([torch.full_like(values, cost * number_bytes) for values, cost in kept])
    order = torch.argsort(worths, descending=True, stable=True)
    fitting = int((torch.cumsum(costs[order], 0) <= size).sum())
    if fitting == 0:
        raise BadSetting(f"{size} bytes are too few for a single rank of a single layer")
    if fitting == worths.numel():
        return limits
    return replace(limits, worth=float((worths[order[fitting - 1]] + worths[order[fitting]]) / 2))
