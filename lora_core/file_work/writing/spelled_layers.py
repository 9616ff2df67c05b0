"""Writes the changes of a model's layers under one dialect's names, and the LoraConfig that goes with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...adapters import BadAdapter
from ...names.key_dialects.dialect import DOTS
from ...names.key_dialects.spelling import DIFFUSERS, Spelling
from ...names.path_names import Name, diffusers_names
from ...names.target_layer import ModelLayout, Rows, TargetLayer
from .peft_config import Written, lora_config
from .row_pieces import Piece, join, split, swap_halves

NO_ALPHA = "none"
FOUR_SIDES = 4  # of a convolution's weight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spelled:
    """Layers in a dialect's names."""

    tensors: Mapping[str, Tensor]
    stored: Mapping[str, str]  # layer as it is written -> how its alpha was stored
    configs: Mapping[str, Mapping[str, Any]]  # prefix in the configuration -> LoraConfig of its layers
    refused: Sequence[str]  # layers that the dialect has no words for, each with the reason

    @property
    def layers(self) -> int:
        """Layers of the dialect."""
        return len(self.stored)


def spell(pieces: Mapping[str, Sequence[Piece]], spelling: Spelling, layout: ModelLayout) -> Spelled:
    """Say the changes of a model's layers in a dialect.

    Args:
        pieces: path of a layer -> its changes, in the model's row order.
        spelling: the dialect.
        layout: the model.
    """
    return _Speller(pieces, spelling, layout).spelled()


def rows_as_written(spelling: Spelling, layout: ModelLayout) -> Mapping[str, Sequence[Rows]]:
    """Path -> the runs of its rows that are layers of their own in a dialect; one run where all rows are one layer."""
    found: dict[str, Sequence[Rows]] = {}
    for part in layout.parts:
        for target, names in _names(spelling, layout, part):
            found[target.path] = [name.rows or target.all_rows for name in names]
    return found


def whole_rows(layout: ModelLayout) -> Mapping[str, Sequence[Rows]]:
    """Path -> all of its rows as one run."""
    return {path: [target.all_rows] for path, target in layout.targets.items()}


class _Speller:
    """Collects the tensors and the configuration, layer by layer."""

    def __init__(self, pieces: Mapping[str, Sequence[Piece]], spelling: Spelling, layout: ModelLayout) -> None:
        self._pieces = pieces
        self._spelling = spelling
        self._layout = layout
        self._refused: list[str] = []
        self._stored: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._written: dict[str, dict[str, Written]] = {}  # prefix in the configuration -> layer's name -> what it is
        self._names = {part: _names(spelling, layout, part) for part in layout.parts}

    def spelled(self) -> Spelled:
        parts = {self._layout.targets[path].part for path in self._pieces}
        for part in sorted(parts):
            self._write_part(part, alone=len(parts) == 1)
        configs = {prefix: lora_config(layers, self._names_in(prefix)) for prefix, layers in self._written.items()}
        return Spelled(tensors=self._tensors, stored=self._stored, configs=configs, refused=self._refused)

    def _write_part(self, part: str, *, alone: bool) -> None:
        prefix = self._spelling.prefix(self._layout.family, part, self._layout.parts, alone=alone)
        for target, names in self._names[part]:
            if target.path not in self._pieces:
                continue
            try:
                for name, piece in _in_slots(names, self._pieces[target.path], target):
                    self._write(prefix, name, piece, target)
            except BadAdapter as reason:
                self._refused.append(f"'{target.inner}' ({reason})")

    def _write(self, prefix: str, name: str, piece: Piece, target: TargetLayer) -> None:
        spelled = prefix + (name if self._spelling.joined == DOTS else name.replace(DOTS, self._spelling.joined))
        tensors = _as_spelled(self._spelling, piece, target)
        strange = sorted(tensors.keys() - self._spelling.parameters.keys())
        if strange:
            raise BadAdapter(f"{self._spelling.name} has no words for {', '.join(strange)}")
        if spelled in self._stored:
            raise BadAdapter(f"{self._spelling.name} gives another layer the same name '{spelled}'")
        for role, tensor in tensors.items():
            self._tensors[spelled + self._spelling.parameters[role]] = tensor
        if piece.alpha is not None and not self._spelling.configured:
            self._tensors[spelled + self._spelling.parameters["alpha"]] = piece.alpha
        self._stored[spelled] = NO_ALPHA if piece.alpha is None else str(piece.alpha.dtype).removeprefix("torch.")
        configured, name = self._spelling.in_configuration(prefix, name)
        alpha = None if piece.alpha is None else float(piece.alpha)
        written = Written(piece.rank, alpha, "magnitude" in tensors, "up_bias" in tensors)
        self._written.setdefault(configured, {})[name] = written

    def _names_in(self, configured: str) -> Iterable[str]:
        """Every name that the layers of the model have in a configuration, of which it may mean only some."""
        for part, layers in self._names.items():
            prefix = self._spelling.prefix(self._layout.family, part, self._layout.parts)
            for _, names in layers:
                for name in names:
                    where, spelled = self._spelling.in_configuration(prefix, name.name)
                    if where == configured:
                        yield spelled


def _names(spelling: Spelling, layout: ModelLayout, part: str) -> Sequence[tuple[TargetLayer, Sequence[Name]]]:
    """Each layer of a part with its names in a dialect: one, or one for each run of rows."""
    own = {target.inner: target for target in layout.targets.values() if target.part == part}
    names: dict[str, list[Name]] = {}
    if spelling.names_from(layout.family, part) == DIFFUSERS:
        for name in diffusers_names(part, {inner: target.shape for inner, target in own.items()}):
            names.setdefault(name.inner, []).append(name)
    return [(target, names.get(inner, [Name(inner, inner)])) for inner, target in own.items()]


def _in_slots(names: Sequence[Name], pieces: Sequence[Piece], target: TargetLayer) -> Iterable[tuple[str, Piece]]:
    """The pieces of a layer, cut and joined to the rows that a dialect's names stand for."""
    slots = {name.rows or target.all_rows: name for name in names}
    left = [cut for piece in pieces for cut in _cut(piece, list(slots))]
    for rows, name in slots.items():
        inside = [piece for piece in left if rows[0] <= piece.rows[0] and piece.rows[1] <= rows[1]]
        if not inside:
            continue
        piece = inside[0] if len(inside) == 1 and inside[0].rows == rows else join(inside, rows)
        yield name.name, swap_halves(piece) if name.swap_halves else piece


def _cut(piece: Piece, slots: Sequence[Rows]) -> Sequence[Piece]:
    """The piece itself where it lies in one slot, else its parts in each of them."""
    parts = [(max(piece.rows[0], start), min(piece.rows[1], stop)) for start, stop in slots]
    parts = [rows for rows in parts if rows[0] < rows[1]]
    return [piece] if len(parts) <= 1 else split(piece, sorted(parts))


def _as_spelled(spelling: Spelling, piece: Piece, target: TargetLayer) -> Mapping[str, Tensor]:
    """A piece's tensors in the shapes that a dialect stores."""
    tensors = dict(piece.tensors)
    magnitude = tensors.get("magnitude")
    sides = len(target.shape)
    if magnitude is not None and magnitude.dim() == 1 and not spelling.configured:
        tensors["magnitude"] = magnitude.reshape(-1, *[1] * (sides - 1))
    elif magnitude is not None and magnitude.dim() == 1 and sides == FOUR_SIDES:
        tensors["magnitude"] = magnitude.reshape(1, -1, 1, 1)
    elif magnitude is not None and magnitude.dim() > 1 and spelling.configured:
        raise BadAdapter(f"{spelling.name} has no words for magnitudes per input")
    if spelling.configured and "down" in tensors:
        kernel = target.shape[2:]
        tensors["down"] = tensors["down"].reshape(piece.rank, -1, *kernel)
        tensors["up"] = tensors["up"].reshape(tensors["up"].shape[0], piece.rank, *([1] * len(kernel)))
    if "up_bias" in tensors and not spelling.configured:
        bias = tensors.pop("up_bias")
        if "diff_bias" in tensors:
            raise BadAdapter("the file changes this layer's bias twice")
        tensors["diff_bias"] = bias if piece.scale == 1 else (bias.double() * piece.scale).to(bias.dtype)
    return tensors
