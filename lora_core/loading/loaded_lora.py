"""Assembles the adapters of a file for one model: reads the mapped keys, builds each layer, accounts for every key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..adapters import (
    BIAS,
    WEIGHT,
    Adapter,
    AdapterParts,
    BadAdapter,
    Built,
    BuiltLayer,
    WholeFile,
    build_layer,
    find_builder,
    is_complete,
    why_incomplete,
)
from ..adapters.finite import is_finite
from ..adapters.row_order import SwappedHalves, take_rows
from ..adapters.scale_rules import ALPHA_AT_MOST, ScaleRules
from ..files.lora_file import LoraFile, Reader
from ..names.families import Family
from ..names.key_map import LayerKeys, bare_name, map_keys
from ..names.key_report import KeyNote, KeyReport
from ..names.name_table import NameTable, Place
from ..names.target_layer import UNET, ModelLayout, TargetLayer
from .file_family import family_of_header, rules_of
from .header_reader import HeaderReader
from .refusals import refuse_foreign
from .shared_tensors import whole_file

MISFITS_AT_MOST = 0.1  # of a file's layers: SD1.5's attention in SD2 has 0.25, a wrong guess of the family has none


@dataclass(frozen=True, slots=True, eq=False)
class PlacedAdapter:
    """An adapter and the layer (or rows of it) that it changes."""

    place: Place
    part: str
    adapter: Adapter
    target: str  # name of the parameter in the host's model
    parameter: str = WEIGHT  # of the layer: "weight" or "bias"
    layer: str = ""  # as the file spells it, with its prefix


@dataclass(frozen=True, eq=False)  # without slots, so that what is worked out for a file can go with it
class LoadedLora:
    """One adapter file made ready for one model."""

    adapters: Sequence[PlacedAdapter]
    report: KeyReport
    metadata: Mapping[str, str]

    @cached_property
    def size(self) -> int:
        """Bytes that its tensors hold."""
        return sum(t.numel() * t.element_size() for placed in self.adapters for t in placed.adapter.tensors())

    def of_parts(self, parts: frozenset[str]) -> Sequence[PlacedAdapter]:
        """The adapters that change the given parts of the model."""
        return [placed for placed in self.adapters if placed.part in parts]


def load_lora(file: LoraFile, layout: ModelLayout, table: NameTable) -> LoadedLora:
    """Read an adapter file for a model; layers that don't fit are accounted for in the report, not applied.

    Args:
        file: from open_lora.
        layout: the model's layers, from list_targets.
        table: NameTable(layout), kept by the caller because it depends on the model alone.

    Raises:
        FamilyMismatch: the file looks made for another known family, and most of it does not fit this model.
        NotAnAdapter: the file is of another kind, see refusals.
        FileMissing, FileDamaged: the file went away or changed in between.
    """
    refuse_foreign(file)
    family = family_of_header(file.header)
    if is_for_another(family, layout):
        account(file, family, layout, table).require_family()
    with file.tensors() as reader:
        return assemble(file, family, layout, table, reader)


def is_for_another(family: Family, layout: ModelLayout) -> bool:
    """Whether a file's names and shapes look like those of another family than the model's; a guess."""
    return UNET in layout.parts and family.differs_from(layout.family)


def account(file: LoraFile, family: Family, layout: ModelLayout, table: NameTable) -> KeyReport:
    """Where every key of a file would go, from its header alone."""
    if not file.has_data:
        return assemble(file, family, layout, table, HeaderReader(file.header, None)).report
    with file.tensors() as tensors:
        return assemble(file, family, layout, table, HeaderReader(file.header, tensors)).report


def assemble(file: LoraFile, family: Family, layout: ModelLayout, table: NameTable, reader: Reader) -> LoadedLora:
    """Build every layer of a file that fits the model, with tensors out of `reader`, and account for every key."""
    assembly = _Assembly(file, layout, table)
    whole = whole_file(file, assembly.layers, layout, reader.tensor)
    for layer in assembly.layers:
        assembly.add(layer, reader, whole)
    return assembly.finish(family)


@dataclass(slots=True)
class _Tally:
    """What a report says of the built layers."""

    algorithms: dict[str, int] = field(default_factory=dict[str, int])
    ranks: list[int] = field(default_factory=list[int])
    alphas: list[float] = field(default_factory=list[float])
    dead: int = 0  # layers whose scale is 0
    notes: dict[str, int] = field(default_factory=dict[str, int])  # of algorithms -> layers

    def count_name(self, algorithm: str) -> None:
        self.algorithms[algorithm] = self.algorithms.get(algorithm, 0) + 1

    def count(self, built: Built, *, alpha_read: bool) -> None:
        self.count_name(built.algorithm)
        if built.note:
            self.notes[built.note] = self.notes.get(built.note, 0) + 1
        if built.rank is None:
            return
        self.ranks.append(built.rank)
        if alpha_read and built.alpha is not None:
            self.alphas.append(built.alpha)
            self.dead += built.alpha == 0


class _Assembly:
    """Builds layer by layer and keeps the account."""

    def __init__(self, file: LoraFile, layout: ModelLayout, table: NameTable) -> None:
        entries = file.header.entries
        key_map = map_keys(entries, table)
        self._file = file
        self._layout = layout
        self._rules, self._notes = rules_of(file)
        self._ignored = list(key_map.ignored)
        self._unmatched = list(key_map.unmatched)
        self._matched: list[str] = []
        self._placed: list[PlacedAdapter] = []
        self._tally = _Tally()
        self._dialects: dict[str, int] = {}
        self._in_denoiser = 0  # matched keys
        self._misfits = 0  # layers that are there, in another shape
        self._loosely = sum(len(layer.keys) for layer in key_map.layers if layer.is_loose)
        self.layers = key_map.layers

    def add(self, layer: LayerKeys, reader: Reader, whole: WholeFile) -> None:
        """Build one layer, or put its keys among the unmatched with the reason."""
        targets = [self._layout.targets[place.path] for place in layer.places]
        self._dialects[layer.dialect] = self._dialects.get(layer.dialect, 0) + 1
        if not self._file.has_shapes:
            self._add_by_name(layer)
            self._in_denoiser += len(layer.keys) * any(target.part == UNET for target in targets)
            return
        try:
            built = _build(layer, targets, reader, self._rules, whole)
            placed = _placed(layer, targets, built)
        except BadAdapter as reason:
            self._misfits += 1
            self._unmatched += [KeyNote(key.key, str(reason)) for key in layer.keys.values()]
            return
        main = built.changes.get(WEIGHT) or next(iter(built.changes.values()))
        self._tally.count(main, alpha_read=self._file.has_data or "alpha" not in layer.keys)
        self._matched += [key.key for key in layer.keys.values()]
        self._placed += placed
        if any(target.part == UNET for target in targets):
            self._in_denoiser += len(layer.keys)

    def _add_by_name(self, layer: LayerKeys) -> None:
        """Account for a layer of which no shape is known: complete, or not."""
        keys = [key.key for key in layer.keys.values()]
        if is_complete(layer.keys.keys()):
            builder = find_builder(layer.keys.keys())
            self._tally.count_name(builder.algorithm if builder else BIAS)
            self._matched += keys
        else:
            self._unmatched += [KeyNote(key, _incomplete(layer)) for key in keys]

    def _fits(self) -> bool:
        """Whether most keys reach the denoiser, and few layers have shapes that speak against it."""
        most = self._in_denoiser > len(self._unmatched)
        return most and self._misfits <= MISFITS_AT_MOST * len(self.layers)

    def finish(self, family: Family) -> LoadedLora:
        """The adapters with their account."""
        tally = self._tally
        notes = [*self._notes, *(f"in {count} layers, {note}" for note, count in tally.notes.items())]
        if UNET in self._layout.parts and not self._layout.family.known:
            notes.append("the model's family is not in the tables, so only names equal to the model's own were found")
        if self._loosely:
            notes.append(f"{self._loosely} keys have other separators or capitals than any known trainer writes")
        if tally.dead:
            notes.append(f"alpha is 0 in {tally.dead} layers, so these do nothing")
        report = KeyReport(
            file=self._file.name,
            dialect=max(self._dialects, key=lambda name: self._dialects[name], default="unknown"),
            file_family=family,
            model_family=self._layout.family,
            keys=len(self._file.header.entries),
            matched=self._matched,
            ignored=self._ignored,
            unmatched=self._unmatched,
            algorithms=tally.algorithms,
            ranks=(min(tally.ranks), max(tally.ranks)) if tally.ranks else None,
            alphas=(min(tally.alphas), max(tally.alphas)) if tally.alphas else None,
            notes=notes,
            is_refused=is_for_another(family, self._layout) and not self._fits(),
        )
        return LoadedLora(self._placed, report, self._file.header.metadata)


def _build(
    layer: LayerKeys, targets: Sequence[TargetLayer], reader: Reader, rules: ScaleRules, whole: WholeFile
) -> BuiltLayer:
    if not is_complete(layer.keys.keys()):
        raise BadAdapter(_incomplete(layer))
    tensors = {role: reader.tensor(key.key) for role, key in layer.keys.items()}
    for role, key in layer.keys.items():
        if not is_finite(tensors[role]):
            raise BadAdapter(f"'{key.key}' holds NaN or infinite numbers")
    alpha = _alpha(tensors.pop("alpha", None))
    name = bare_name(layer.layer)
    parts = AdapterParts(
        tensors=tensors,
        shape=_shape(layer.places, targets),
        alpha=alpha,
        scale=lambda rank: rules.scale(layer.layer, name, rank, alpha),
        name=name,
        whole=whole,
    )
    return build_layer(parts, has_bias=all(target.has_bias for target in targets))


def _shape(places: Sequence[Place], targets: Sequence[TargetLayer]) -> tuple[int, ...]:
    """The weight's shape as the file has it: rows of the model's layer, or several layers' rows together."""
    rows = [
        target.shape[0] if place.rows is None else place.rows[1] - place.rows[0]
        for place, target in zip(places, targets, strict=True)
        if target.shape
    ]
    return (sum(rows), *targets[0].shape[1:]) if rows else ()


def _placed(layer: LayerKeys, targets: Sequence[TargetLayer], built: BuiltLayer) -> list[PlacedAdapter]:
    """The built changes, cut and turned to the rows that the model has."""
    placed: list[PlacedAdapter] = []
    for place, target in zip(layer.places, targets, strict=True):
        for parameter, change in built.changes.items():
            adapter = change.adapter if place.source_rows is None else take_rows(change.adapter, *place.source_rows)
            adapter = SwappedHalves(adapter) if place.swap_halves else adapter
            name = target.bias_name if parameter == BIAS else target.weight_name
            placed.append(PlacedAdapter(place, target.part, adapter, name, parameter, layer.layer))
    return placed


def _incomplete(layer: LayerKeys) -> str:
    return why_incomplete({role: key.parameter.algorithm for role, key in layer.keys.items()})


def _alpha(alpha: Tensor | None) -> float | None:
    if alpha is None or alpha.is_meta:
        return None
    if alpha.numel() != 1:
        raise BadAdapter(f"alpha should be one number, but has the shape {list(alpha.shape)}")
    number = float(alpha.double().item())
    if abs(number) > ALPHA_AT_MOST:
        raise BadAdapter(f"alpha is {number:g}, which no training gives")
    return number
