"""Lays the adapters of several files over each other: which rows of which layer each file changes, and by what."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...adapters import BIAS, WEIGHT
from ...loading.loaded_lora import LoadedLora, PlacedAdapter
from ...names.target_layer import Rows, TargetLayer
from .adapter_to_factored import NeedsWeight, delta_of, factored, padded, rows_of, why_no_delta
from .factored import EXACT, Factored, concat

GIVE_WEIGHTS = "give the model's weights (--model CHECKPOINT, or the node's model input)"
ParameterOf = Callable[[str], Tensor]  # the model's parameter by its name, float32; KeyError where it is not at hand


@dataclass(frozen=True, slots=True, eq=False)
class AlignedLayer:
    """Rows of a layer that are one layer in the file to be written, and what each source does to them."""

    target: TargetLayer
    rows: Rows
    changes: Mapping[int, Sequence[PlacedAdapter]]  # number of the source -> its adapters of these rows

    @property
    def name(self) -> str:
        """For reports and errors: the path, with the rows where they are not all."""
        start, stop = self.rows
        return self.target.path if (start, stop) == self.target.all_rows else f"{self.target.path}[{start}:{stop}]"

    def deltas(self, read: ParameterOf | None, sources: Collection[int] | None = None) -> Mapping[int, Factored]:
        """Source -> its change of the weight, [rows, in * kernel]; of the given sources alone. Raises NeedsWeight."""
        if not self.target.is_matrix:
            return {}
        wanted = self.changes.keys() if sources is None else self.changes.keys() & set(sources)
        found = {number: self._of(self.changes[number], WEIGHT) for number in sorted(wanted)}
        return {number: self._sum(placed, read) for number, placed in found.items() if placed}

    def vectors(self, read: ParameterOf | None) -> Mapping[str, Mapping[int, Tensor]]:
        """Role in a file -> source -> its change of the bias, or of a weight without factors: [rows, ...], float64."""
        roles = {"diff_bias": BIAS}
        if not self.target.is_matrix:
            roles[self.target.whole_role] = WEIGHT
        found: dict[str, dict[int, Tensor]] = {}
        for role, parameter in roles.items():
            for number, placed in self.changes.items():
                own = self._of(placed, parameter)
                if own:
                    found.setdefault(role, {})[number] = self._added(own, read)
        return found

    def _of(self, placed: Sequence[PlacedAdapter], parameter: str) -> list[PlacedAdapter]:
        return [one for one in placed if one.parameter == parameter]

    def _sum(self, placed: Sequence[PlacedAdapter], read: ParameterOf | None) -> Factored:
        start, stop = self.rows
        parts: list[Factored] = []
        for one in placed:
            own = one.place.rows or self.target.all_rows
            low, high = max(own[0], start), min(own[1], stop)
            delta = rows_of(factored(one.adapter, _reader(one, own, read)), low - own[0], high - own[0])
            parts.append(padded(delta, low - start, stop - start))
        return concat(parts)

    def _added(self, placed: Sequence[PlacedAdapter], read: ParameterOf | None) -> Tensor:
        start, stop = self.rows
        sides = self.target.shape[1:] if placed[0].parameter == WEIGHT else ()
        total = torch.zeros(stop - start, *sides, dtype=EXACT)
        for one in placed:
            own = one.place.rows or self.target.all_rows
            low, high = max(own[0], start), min(own[1], stop)
            delta = delta_of(one.adapter, _reader(one, own, read)).to(EXACT).reshape(own[1] - own[0], *sides)
            total[low - start : high - start] += delta[low - own[0] : high - own[0]]
        return total


def align(
    loras: Sequence[LoadedLora], targets: Mapping[str, TargetLayer], rows: Mapping[str, Sequence[Rows]]
) -> list[AlignedLayer]:
    """Every layer that any of the files changes, in the order of the model.

    Args:
        loras: the sources, loaded for one model.
        targets: of that model.
        rows: path -> the runs of rows that the file to be written has as layers, from rows_as_written.
    """
    by_path: dict[str, dict[int, list[PlacedAdapter]]] = {}
    for number, lora in enumerate(loras):
        for placed in lora.adapters:
            by_path.setdefault(placed.place.path, {}).setdefault(number, []).append(placed)
    aligned: list[AlignedLayer] = []
    for path, target in targets.items():
        for run in rows.get(path, ()) if path in by_path else ():
            inside = {
                number: [one for one in placed if _overlap(one.place.rows or target.all_rows, run)]
                for number, placed in by_path[path].items()
            }
            changes = {number: placed for number, placed in inside.items() if placed}
            if changes:
                aligned.append(AlignedLayer(target, run, changes))
    return aligned


def why_not_factored(layers: Sequence[AlignedLayer], files: Sequence[str], *, has_weights: bool) -> list[str]:
    """Every change that has no delta, with its layer, file and reason; reads nothing."""
    reasons: dict[str, None] = {}
    for layer in layers:
        for number, placed in layer.changes.items():
            for one in placed:
                reason = why_no_delta(one.adapter, has_weight=has_weights)
                if reason is not None:
                    reasons[f"'{layer.target.path}' of {files[number]} ({reason})"] = None
    return list(reasons)


def _reader(one: PlacedAdapter, own: Rows, read: ParameterOf | None) -> Callable[[], Tensor] | None:
    return None if read is None else partial(_read_rows, read, one.target, own)


def _read_rows(read: ParameterOf, name: str, rows: Rows) -> Tensor:
    try:
        return read(name)[rows[0] : rows[1]]
    except KeyError:
        raise NeedsWeight(f"the model that was given has no '{name}' that can be read") from None


def _overlap(one: Rows, other: Rows) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
