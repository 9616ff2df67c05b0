"""Cuts a LoRA layer into runs of output rows and joins such runs again, exactly and back to the same tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...adapters import BadAdapter
from ...files.stored_values import same_bits
from ...names.target_layer import Rows

# Roles whose first side is the layer's output rows; a role in neither table can be moved, but not cut.
ROWS = frozenset({"up", "up_bias", "magnitude", "diff", "diff_bias", "norm", "norm_bias", "set_weight", "set_bias"})
SHARED = frozenset({"down", "mid"})  # roles that all rows have in common
ZERO_WHERE_ABSENT = frozenset({"up_bias", "diff", "diff_bias", "norm", "norm_bias"})  # rows not given don't change


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A file's change of some output rows of a layer: scale * up @ down on these rows, and what stands beside it."""

    rows: Rows
    tensors: Mapping[str, Tensor]  # role -> tensor; magnitudes per output are [rows]
    alpha: Tensor | None  # one number in the file's dtype; None where scale is 1

    @property
    def rank(self) -> int:
        """Rows of the down matrix; 0 for a piece that has none."""
        down = self.tensors.get("down")
        return 0 if down is None else down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank; 1 without an alpha."""
        return 1.0 if self.alpha is None or not self.rank else float(self.alpha) / self.rank


def swap_halves(piece: Piece) -> Piece:
    """The piece with the two halves of its rows exchanged."""
    half = (piece.rows[1] - piece.rows[0]) // 2
    _check_cuttable(piece)
    turned = {role: torch.roll(t, half, dims=0) if role in ROWS else t for role, t in piece.tensors.items()}
    return replace(piece, tensors=turned)


def split(piece: Piece, parts: Sequence[Rows]) -> list[Piece]:
    """The piece cut at the given rows, which tile it.

    Where the columns of `up` belong to one part each (several adapters once joined), each part gets back its own; a
    part that has none is left out. Otherwise every part shares the whole `down`.

    Raises BadAdapter for algorithms whose rows can't be told apart.
    """
    _check_cuttable(piece)
    local = [(start - piece.rows[0], stop - piece.rows[0]) for start, stop in parts]
    columns = _own_columns(piece.tensors.get("up"), local)
    pieces: list[Piece] = []
    for rows, inside, own in zip(parts, local, columns or [None] * len(parts), strict=True):
        tensors = {role: t[inside[0] : inside[1]] if role in ROWS else t for role, t in piece.tensors.items()}
        alpha = piece.alpha
        if own is not None:
            if own[0] == own[1]:
                continue
            tensors["up"], tensors["down"] = tensors["up"][:, own[0] : own[1]], tensors["down"][own[0] : own[1]]
            alpha = _alpha_of(piece.scale, own[1] - own[0], [piece.alpha])
        pieces.append(Piece(rows, tensors, alpha))
    return pieces


def join(pieces: Sequence[Piece], rows: Rows) -> Piece:
    """One piece for all `rows`, the same change as the given ones together; what is not given does not change.

    Pieces cut from one layer, with one common `down`, become that layer again. Others stand side by side: their ranks
    add up, and `up` is zero outside of each one's rows.

    Raises BadAdapter for algorithms whose rows can't be put together.
    """
    ordered = sorted(pieces, key=lambda piece: piece.rows)
    for piece in ordered:
        _check_cuttable(piece)
    roles = {role for piece in ordered for role in piece.tensors}
    incomplete = not _tiles(ordered, rows)
    for role in roles - ZERO_WHERE_ABSENT - {"up", *SHARED}:
        if incomplete or any(role not in piece.tensors for piece in ordered):
            raise BadAdapter(f"the other dialect fuses this layer with others that lack '{role}'")
    tensors = {role: _stack(role, ordered, rows) for role in roles & (ROWS - {"up"})}
    low_rank = [piece for piece in ordered if "up" in piece.tensors]
    if not low_rank:
        return Piece(rows, tensors, None)
    if not incomplete and len(low_rank) == len(ordered) and _share_down(low_rank):
        shared = {role: t for role, t in low_rank[0].tensors.items() if role in SHARED}
        up = torch.cat([piece.tensors["up"] for piece in low_rank])
        return Piece(rows, {**tensors, **shared, "up": up}, low_rank[0].alpha)
    if any("mid" in piece.tensors for piece in low_rank):
        raise BadAdapter("the other dialect fuses this layer with others, which a middle tensor (Tucker) rules out")
    scale = low_rank[0].scale
    alpha = _alpha_of(scale, sum(piece.rank for piece in low_rank), [piece.alpha for piece in low_rank])
    return Piece(rows, {**tensors, "down": _downs(low_rank), "up": _side_by_side(low_rank, rows, scale)}, alpha)


def _check_cuttable(piece: Piece) -> None:
    others = piece.tensors.keys() - ROWS - SHARED
    if others or (piece.tensors.get("magnitude", torch.empty(0)).dim() > 1):
        raise BadAdapter(
            f"the other dialect has the rows of this layer in another layout, which "
            f"{', '.join(sorted(others)) or 'magnitudes per input'} can't follow exactly"
        )


def _own_columns(up: Tensor | None, parts: Sequence[Rows]) -> list[Rows] | None:
    """The columns of `up` that each part alone uses; None where parts share columns."""
    if up is None:
        return None
    used = up.flatten(1).float() != 0
    by_part = [used[start:stop].any(dim=0) for start, stop in parts]
    if not torch.stack(by_part).sum(dim=0).eq(1).all():
        return None
    ranges: list[Rows] = []
    last = 0
    for mask in by_part:
        count = int(mask.sum())
        if count and not mask[last : last + count].all():
            return None
        ranges.append((last, last + count))
        last += count
    return ranges


def _tiles(ordered: Sequence[Piece], rows: Rows) -> bool:
    starts = [*(piece.rows[0] for piece in ordered), rows[1]]
    stops = [rows[0], *(piece.rows[1] for piece in ordered)]
    return starts == stops


def _share_down(pieces: Sequence[Piece]) -> bool:
    first = pieces[0]
    return all(
        piece.scale == first.scale
        and piece.tensors.keys() & SHARED == first.tensors.keys() & SHARED
        and all(same_bits(piece.tensors[role], first.tensors[role]) for role in first.tensors.keys() & SHARED)
        for piece in pieces[1:]
    )


def _stack(role: str, ordered: Sequence[Piece], rows: Rows) -> Tensor:
    model = next(piece.tensors[role] for piece in ordered if role in piece.tensors)
    whole = torch.zeros((rows[1] - rows[0], *model.shape[1:]), dtype=model.dtype)
    for piece in ordered:
        if role in piece.tensors:
            whole[piece.rows[0] - rows[0] : piece.rows[1] - rows[0]] = piece.tensors[role]
    return whole


def _downs(pieces: Sequence[Piece]) -> Tensor:
    return torch.cat([piece.tensors["down"] for piece in pieces])


def _side_by_side(pieces: Sequence[Piece], rows: Rows, scale: float) -> Tensor:
    model = pieces[0].tensors["up"]
    rank = sum(piece.rank for piece in pieces)
    whole = torch.zeros((rows[1] - rows[0], rank, *model.shape[2:]), dtype=model.dtype)
    column = 0
    for piece in pieces:
        up = piece.tensors["up"]
        if piece.scale != scale:
            up = (up.double() * (piece.scale / scale)).to(up.dtype)
        whole[piece.rows[0] - rows[0] : piece.rows[1] - rows[0], column : column + piece.rank] = up
        column += piece.rank
    return whole


def _alpha_of(scale: float, rank: int, alphas: Sequence[Tensor | None]) -> Tensor | None:
    """An alpha that gives `scale` at `rank`, in the dtype of the file where that holds the number exactly."""
    given = [alpha for alpha in alphas if alpha is not None]
    if not given:
        return None
    alpha = torch.tensor(scale * rank, dtype=torch.float64).reshape(given[0].shape)
    narrow = alpha.to(given[0].dtype)
    return narrow if narrow.double() == alpha else alpha.float()
