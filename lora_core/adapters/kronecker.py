"""LoKr: the Kronecker product of two matrices, each whole or factored, the second also with a middle tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import (
    AdapterParts,
    AdditiveAdapter,
    BadAdapter,
    Builder,
    Built,
    FrozenLayer,
    as_input,
    as_weight,
    check_shape,
)
from .channels import in_runs, is_plain
from .tucker import tucker

PREFIX = "lokr_"  # of its roles
PEFT_RANK = 8  # LoKrConfig.r of peft 0.21.2, for a configuration that leaves it out


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker(AdditiveAdapter):
    """delta = scale * kron(w1, w2); w1 = w1_a @ w1_b and w2 = w2_a @ w2_b where they are factored.

    scale = alpha / rank of a factored matrix; 1 when both are whole, since there is no rank then.
    Sources: Yeh et al. 2023 (arXiv 2309.14859) sec. 3.2; LyCORIS 4.1 functional.lokr and modules.lokr.
    """

    scale: float
    shape: tuple[int, ...]  # [a * b, c * d, *kernel] of the weight
    w1: Tensor | None = None  # [a, c]
    w1_a: Tensor | None = None  # [a, rank]
    w1_b: Tensor | None = None  # [rank, c]
    w2: Tensor | None = None  # [b, d, *kernel]
    w2_a: Tensor | None = None  # [b, rank]; [rank, b] with a middle tensor
    w2_b: Tensor | None = None  # [rank, d * kernel]; [rank, d] with a middle tensor
    t2: Tensor | None = None  # [rank, rank, *kernel]

    def delta(self) -> Tensor:
        """See AdditiveAdapter.delta."""
        first, second = self._factors()
        first = first.reshape(*first.shape[:2], *([1] * (second.dim() - 2)))
        return as_weight(torch.kron(first, second.contiguous()) * self.scale, self.shape)

    def branch(self, x: Tensor, plain: Tensor, layer: FrozenLayer) -> Tensor:
        """See Adapter.branch: w2 on each of c runs of the input, then w1 over the runs."""
        first, second = self._factors()
        (many, runs), (height, width) = first.shape[:2], second.shape[:2]
        fits = (many * height, runs * width, *second.shape[2:]) == self.shape
        if not fits or not is_plain(self.shape, x):
            return AdditiveAdapter.branch(self, x, plain, layer)
        first = as_input(first.reshape(many, runs) * self.scale, x)
        if len(self.shape) == 2:
            hidden = layer.apply(as_input(second, x), in_runs(x, runs, self.shape))  # [..., c, b]
            return torch.einsum("ac,...cb->...ab", first, hidden).flatten(-2)
        hidden = layer.apply(as_input(second, x), in_runs(x, runs, self.shape).flatten(0, 1))  # [batch * c, b, ...]
        return torch.einsum("ac,ncb...->nab...", first, hidden.reshape(-1, runs, *hidden.shape[1:])).flatten(1, 2)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(w1 [a, c, ...], w2 [b, d, *kernel]), float32."""
        second = _matrix(self.w2, self.w2_a, self.w2_b, self.t2)
        kernel = tuple(self.shape[2:])
        if second.dim() == 2 and kernel:  # factored: its columns are d * kernel
            second = second.reshape(second.shape[0], -1, *kernel)
        return _matrix(self.w1, self.w1_a, self.w1_b, None), second


def _matrix(whole: Tensor | None, a: Tensor | None, b: Tensor | None, middle: Tensor | None) -> Tensor:
    if whole is not None:
        return whole.float()
    if a is None or b is None:
        raise BadAdapter("incomplete: a factored matrix needs both of its factors")
    return torch.mm(a.float(), b.float()) if middle is None else tucker(middle.float(), a.float(), b.float())


def _build(parts: AdapterParts) -> Built:
    given: Mapping[str, Tensor] = {
        role.removeprefix(PREFIX): tensor for role, tensor in parts.tensors.items() if role.startswith(PREFIX)
    }
    for name in ("w1", "w2"):
        if name not in given and not (f"{name}_a" in given and f"{name}_b" in given):
            raise BadAdapter(f"incomplete: neither lokr_{name} nor both of lokr_{name}_a and lokr_{name}_b")
    factored = given.get("w2_b", given.get("w1_b"))
    rank = None if factored is None else factored.shape[0]
    note = ""
    if rank is None:
        scale, alpha, note = _scale_of_whole(parts)
    else:
        scale, alpha = parts.scale(rank)
    adapter = Kronecker(scale, parts.shape, **given)
    check_shape(adapter, parts.shape)
    return Built(adapter=adapter, algorithm="LoKr", rank=rank, alpha=alpha, note=note)


def _scale_of_whole(parts: AdapterParts) -> tuple[float, float | None, str]:
    """(scale, alpha, note) where there is no rank to tell: both matrices are whole.

    LyCORIS stores its rank as alpha then, and the scale is 1; PEFT divides by its configuration's rank all the same.
    """
    if parts.fixed_scale is not None:
        return parts.fixed_scale, None, ""
    config = parts.whole.config
    if config.get("peft_type") == "LOKR" and parts.alpha is None:
        rank = parts.whole.rank_pattern.first(parts.name) or parts.whole.peft_number("r", PEFT_RANK)
        return *parts.scale(round(rank)), ""
    dims = parts.whole.network_dims()
    if parts.alpha is None or not dims or parts.alpha in dims:
        return 1.0, None, ""
    stated = ", ".join(f"{dim:g}" for dim in sorted(dims))
    return (
        1.0,
        None,
        (
            f"both LoKr matrices are whole, so their scale is 1; but alpha is {parts.alpha:g} and ss_network_dim "
            f"{stated}: a trainer that scales them by alpha / dim means a weaker adapter"
        ),
    )


BUILDER = Builder(
    algorithm="LoKr",
    required=frozenset(),
    optional=frozenset(f"{PREFIX}{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    build=_build,
)
