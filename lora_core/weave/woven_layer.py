"""One layer's adapters woven into one pair of matrices, and what else acts beside the layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..adapters import Adapter, LowRank
from ..adapters.full_delta import FullDelta
from ..adapters.layer_rows import LayerRows
from ..names.target_layer import Rows
from .frozen_module import ModuleAsFrozen, channel_axis, convolution_of, convolved, dense_weight, without_bias
from .row_strengths import Strengths, as_like, beside_axis, of_samples
from .strand import Strand, low_rank_of

DIGITS = 3  # of a strength that is printed: in bf16 it is held to about three


class WovenLayer(nn.Module):
    """y + sum_k s_k (branch of adapter k), the low-rank ones as one pair: y + up (s o (down x)).

    `down` holds the rows of every adapter below each other, `up` their columns, the scale of each file included. An
    adapter of some output rows has its columns in a block of its own, added to these rows alone. Strengths are a
    tensor that the caller fills, so a change of strength is no change of code or weights.
    Source: Hu et al. 2021 (arXiv 2106.09685) eq. 3, summed over adapters.
    """

    def __init__(
        self, strands: Sequence[Strand], shape: tuple[int, ...], dtype: torch.dtype, files: Sequence[str] = ()
    ) -> None:
        """Weave.

        Args:
            strands: of one layer.
            shape: of its weight, [out, in, *kernel].
            dtype: in which the model computes.
            files: names of the plan's files, for the eye alone.
        """
        super().__init__()
        self._files = tuple(files)
        self.shape = shape  # [out, in, *kernel]
        low_rank = [one for one in strands if isinstance(one.adapter, LowRank)]
        groups: dict[Rows, list[Strand]] = {}
        for one in low_rank:
            groups.setdefault(one.rows or (0, shape[0]), []).append(one)
        self.down: nn.Parameter | None = None  # [sum of ranks, in, *kernel]
        self.ups = nn.ParameterList()  # of each run of rows: [rows, its ranks]
        self.runs: list[tuple[Rows, Rows]] = []  # (rows of the output, columns), one for each of `ups`
        rank_of: list[int] = []  # number of the file of each row of `down`
        downs: list[Tensor] = []
        for rows, group in groups.items():
            start = len(rank_of)
            for one in group:
                down = low_rank_of(one).wide_down().reshape(-1, *shape[1:])
                rank_of += [one.number] * down.shape[0]
                downs.append(down)
            ups = [low_rank_of(one).up.float() * low_rank_of(one).scale for one in group]
            self.ups.append(_parameter(torch.cat(ups, dim=1), dtype))
            self.runs.append((rows, (start, len(rank_of))))
        self._is_one_run = self.runs == [((0, shape[0]), (0, len(rank_of)))]  # no slices needed, as for most layers
        if downs:
            self.down = _parameter(torch.cat(downs), dtype)
        biases = [one for one in strands if one.is_bias]
        self.biases: nn.Parameter | None = None  # [files with one, out]
        if biases:
            self.biases = _parameter(torch.stack([_whole_bias(one, shape[0]) for one in biases]), dtype)
        self.others = [one for one in strands if not one.is_bias and not isinstance(one.adapter, LowRank)]
        self.numbers = tuple(rank_of)
        self.rank_strengths = Strengths(rank_of, dtype)
        self.bias_strengths = Strengths([one.number for one in biases], dtype)
        self.other_strengths: list[float | Tensor] = [1.0] * len(self.others)  # a tensor: [samples, 1]
        self._ready: list[Adapter] | None = None  # `others` with what is constant in the layer's weight worked out

    @property
    def rank(self) -> int:
        """Of all low-rank adapters together."""
        return len(self.numbers)

    def extra_repr(self) -> str:
        """What is attached, file by file: its rank or algorithm, and the strength that it has now."""
        found: list[tuple[int, str, float | Tensor]] = []
        for number in dict.fromkeys(self.numbers):
            found.append((number, f"rank {self.numbers.count(number)}", self.rank_strengths.of(number)))
        for number in self.bias_strengths.numbers:
            found.append((number, "bias", self.bias_strengths.of(number)))
        for one, strength in zip(self.others, self.other_strengths, strict=True):
            found.append((one.number, type(one.adapter).__name__, strength))
        return ", ".join(f"{self._name(number)}: {what} at {_shown(strength)}" for number, what, strength in found)

    def _name(self, number: int) -> str:
        return self._files[number] if number < len(self._files) else f"file {number}"

    def set_strengths(self, strengths: Tensor) -> None:
        """Take over the strengths of the plan, in place: [files], or [samples, files] of the model's next call."""
        self.rank_strengths.set(strengths)
        self.set_other_strengths(strengths)

    def set_other_strengths(self, strengths: Tensor) -> None:
        """The same for what no other layer shares: biases, and adapters that are not low-rank."""
        self.bias_strengths.set(strengths)
        if strengths.dim() == 1:
            self.other_strengths = [float(strengths[one.number]) for one in self.others]
        else:
            self.other_strengths = [strengths[:, one.number, None] for one in self.others]

    def forget_weight(self) -> None:
        """Let go of what was worked out from the layer's weight, which may be another one from now on."""
        self._ready = None

    def _prepared(self, module: nn.Module) -> list[Adapter]:
        if self._ready is None:
            weight = dense_weight(module)
            rows = [one.rows or (0, weight.shape[0]) for one in self.others]
            pairs = zip(self.others, rows, strict=True)
            self._ready = [one.adapter.prepared(weight[start:stop]) for one, (start, stop) in pairs]
        return self._ready

    def forward(self, x: Tensor, y: Tensor, module: nn.Module) -> Tensor:
        """The layer's output with all branches.

        Args:
            x: the layer's input, [..., in], or [batch, in, *picture].
            y: its output without adapters, bias included; may be written to.
            module: the layer.
        """
        out = y
        if self.others:
            plain = without_bias(y, module)
            for one, ready, strength in zip(self.others, self._prepared(module), self.other_strengths, strict=True):
                out = _add_other(out, ready, one.rows, strength, x, plain, module)
        if self.down is not None:
            out = self._add_low_rank(x, out, self.down, module)
        if self.biases is not None:
            out = out + self.bias_strengths.weighted(self.biases, out, channel_axis(module))
        return out

    def _add_low_rank(self, x: Tensor, y: Tensor, down: Tensor, module: nn.Module) -> Tensor:
        in_place = not (torch.is_grad_enabled() and (y.requires_grad or x.requires_grad))
        if len(self.shape) > 2:
            hidden = convolved(module, down.to(x), x)
            return self._add_to_channels(hidden * self.rank_strengths.along(hidden, 1), y, module, in_place=in_place)
        hidden = functional.linear(x, as_like(down, x))
        strengths = self.rank_strengths.along(hidden, -1)
        hidden = hidden.mul_(strengths) if in_place else hidden * strengths
        if not in_place or not y.is_contiguous():
            y = y.clone()
        flat, wide = hidden.view(-1, hidden.shape[-1]), y.view(-1, y.shape[-1])
        if self._is_one_run:
            wide.addmm_(flat, as_like(self.ups[0], x).t())
            return y
        for (rows, columns), up in zip(self.runs, self.ups, strict=True):
            part = wide[:, rows[0] : rows[1]]
            part.addmm_(flat[:, columns[0] : columns[1]], as_like(up, x).t())
        return y

    def _add_to_channels(self, hidden: Tensor, y: Tensor, module: nn.Module, *, in_place: bool) -> Tensor:
        y = y if in_place else y.clone()
        for (rows, columns), up in zip(self.runs, self.ups, strict=True):
            up = up.to(y).reshape(*up.shape, *[1] * (y.dim() - 2))
            y[:, rows[0] : rows[1]] += convolution_of(module)(hidden[:, columns[0] : columns[1]], up)
        return y


def _shown(strength: float | Tensor) -> str:
    """One number, or the range of those of a batch's images."""
    if not isinstance(strength, Tensor):
        return f"{strength:.{DIGITS}g}"
    least, most = (f"{float(end):.{DIGITS}g}" for end in (strength.min(), strength.max()))
    return least if least == most else f"{least} to {most}"


def size_of(strands: Sequence[Strand], shape: tuple[int, ...]) -> int:
    """Numbers in the matrices of a woven layer, without weaving it."""
    inputs = torch.Size(shape[1:]).numel()
    ranks = ((low_rank_of(s).up.shape[1], s.rows or (0, shape[0])) for s in strands if isinstance(s.adapter, LowRank))
    biases = sum(shape[0] for one in strands if one.is_bias)
    return biases + sum(rank * (inputs + stop - start) for rank, (start, stop) in ranks)


def _add_other(
    y: Tensor,
    adapter: Adapter,
    rows: Rows | None,
    strength: float | Tensor,  # a tensor: [samples, 1]
    x: Tensor,
    plain: Tensor,
    module: nn.Module,
) -> Tensor:
    axis = channel_axis(module)
    if isinstance(strength, Tensor):
        strength = beside_axis(of_samples(strength, y).to(y), y, axis)
    elif strength == 0:
        return y
    layer: Any = ModuleAsFrozen(module, plain, x)
    if rows is None:
        return y + strength * adapter.branch(x, plain, layer).to(y.dtype)
    start, stop = rows
    part = plain.narrow(axis, start, stop - start)
    added = strength * adapter.branch(x, part, LayerRows(layer, start, stop, axis)).to(y.dtype)
    before, after = y.narrow(axis, 0, start), y.narrow(axis, stop, y.shape[axis] - stop)
    return torch.cat([before, y.narrow(axis, start, stop - start) + added, after], dim=axis)


def _whole_bias(one: Strand, out: int) -> Tensor:
    assert isinstance(one.adapter, FullDelta)
    delta = one.adapter.delta()
    if one.rows is None:
        return delta
    whole = torch.zeros(out)
    whole[one.rows[0] : one.rows[1]] = delta
    return whole


def _parameter(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.to(dtype).contiguous(), requires_grad=False)
