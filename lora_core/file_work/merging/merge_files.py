"""Merges adapter files into one: every layer by its path in the model, whatever the dialects and algorithms are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ...errors import BadSetting, NotMergeable
from ...files.dtypes import widest
from ...loading.loaded_lora import LoadedLora
from ...loading.model_of_files import model_of
from ...names.key_dialects.spelling import SPELLINGS
from ...names.target_layer import ModelLayout, TargetLayer
from ..deltas.aligned_layers import GIVE_WEIGHTS, AlignedLayer, ParameterOf, align, why_not_factored
from ..deltas.factored import EXACT, Factored, concat, nearest
from ..deltas.randomised_svd import PartialSpectrum, leading_spectrum
from ..deltas.rank_limits import RankLimits, within_size
from ..deltas.spectrum import Spectrum
from ..layer_refusals import check_range, readable
from ..progress import Progress, no_progress
from ..sources import Source, check_strengths, load_sources
from ..writing.adapter_maker import AdapterMaker
from ..writing.new_adapter import NewAdapter
from ..writing.spelled_layers import rows_as_written
from .layer_deltas import LayerDeltas, MergeSettings
from .methods import METHODS, Method

SKETCH_FROM = 512  # of the smaller side; below that the whole decomposition of a matrix takes less than a second
SEEN_FOR_SIZE = 256  # ranks of a layer that a size may be spent on, where the layer has no small factors
FULL_FROM = 64  # of the smaller side; a smaller layer is soon of full rank
BY = {"merged": "merge", "resized": "resize"}


@dataclass(frozen=True, slots=True)
class LayerStrengths:
    """Strengths of some layers, multiplied with those of the files."""

    pattern: str  # of the layers' paths in the model, with * and ? as in file names
    factors: tuple[float, ...]  # one for each file, or one for all

    @classmethod
    def parse(cls, text: str) -> "LayerStrengths":
        """PATTERN=NUMBER[,NUMBER...]. Raises BadSetting."""
        pattern, _, numbers = text.rpartition("=")
        try:
            return cls(pattern.strip(), tuple(float(number) for number in numbers.split(",")))
        except ValueError:
            raise BadSetting(f"'{text}' should be PATTERN=STRENGTH or PATTERN=STRENGTH,STRENGTH,...") from None

    def fits(self, target: TargetLayer) -> bool:
        """Whether a layer is meant."""
        return fnmatchcase(target.path, self.pattern) or fnmatchcase(target.inner, self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergeOrder:
    """How to merge."""

    method: str = "concat"
    settings: MergeSettings = field(default_factory=MergeSettings)
    limits: RankLimits = field(default_factory=RankLimits)
    size: int | None = None  # bytes for the matrices of the file
    layers: Sequence[LayerStrengths] = ()
    dialect: str | None = None  # to write; None for the first file's
    dtype: torch.dtype | None = None  # to write; None for the files'
    done: str = "merged"  # what is done to the files, for errors


def merge_files(
    sources: Sequence[Source],
    order: MergeOrder,
    layout: ModelLayout | None = None,
    *,
    read: ParameterOf | None = None,
    progress: Progress = no_progress,
) -> NewAdapter:
    """Merge adapter files.

    Args:
        sources: one file or more.
        order: how.
        layout: the model they are for; None to take the released model that fits best.
        read: the model's parameters, for DoRA and other changes that depend on the weight.
        progress: is told of every layer.

    Raises:
        BadSetting: the order makes no sense.
        DifferentFamilies, FamilyMismatch: the files are for different models.
        ModelNeeded: no model was given, and the files do not tell it.
        NotMergeable: keys that fit nothing, NaN, or changes that depend on weights that are not at hand; lists all.
    """
    _check(sources, order)
    return _Merge(sources, order, model_of([source.file for source in sources], layout), read, progress).run()


class _Merge:
    """One merge under way."""

    def __init__(
        self,
        sources: Sequence[Source],
        order: MergeOrder,
        layout: ModelLayout,
        read: ParameterOf | None,
        progress: Progress,
    ) -> None:
        self._sources = sources
        self._order = order
        self._method = METHODS[order.method]
        self._layout = layout
        self._read = read
        self._progress = progress
        self._what = f"{' and '.join(dict.fromkeys(s.file.name for s in sources))} can't be {order.done}"
        self._loras = load_sources(sources, layout, self._what)
        self._dialect = order.dialect or _dialect_of(self._loras[0])
        self._dtype = order.dtype or widest(_dtypes(self._loras))
        self._full = 0  # large layers that are stored in full rank
        self._short = 0  # layers that have fewer ranks than were asked for

    def run(self) -> NewAdapter:
        maker = AdapterMaker(self._layout, self._dialect, self._dtype)
        rows = rows_as_written(SPELLINGS[self._dialect], self._layout)
        layers = align(self._loras, self._layout.targets, rows)
        reasons = why_not_factored(layers, self._names(), has_weights=self._read is not None)
        if reasons:
            raise NotMergeable(self._what, [*reasons, f"{GIVE_WEIGHTS}, or leave these files out"])
        _check_patterns(self._order.layers, layers)
        limits = self._limits(layers)
        for number, layer in enumerate(layers):
            self._progress(number, len(layers), layer.name)
            self._add(maker, layer, limits)
        self._progress(len(layers), len(layers), "")
        history = {"by": BY[self._order.done], "sources": self._said_of_sources(), **_said(self._order, self._method)}
        metadata = [source.file.header.metadata for source in self._sources]
        return maker.finish(self._what, metadata, history, self._notes(layers))

    def _add(self, maker: AdapterMaker, layer: AlignedLayer, limits: RankLimits) -> None:
        strengths = self._strengths(layer.target)
        vectors = {role: _weighted(changes, strengths) for role, changes in self._vectors(layer).items() if changes}
        sources = self._sources_of(layer, strengths)
        if sources is None:
            maker.add(layer.target, layer.rows, layer.name, matrix=None, vectors=vectors)
            return
        merged = self._method.merge(sources, self._order.settings)
        wanted = concat(sources.deltas)
        rank, kept = merged.rank, 1.0
        if self._method.cuts:
            found = _leading(merged, limits, sources)
            values = found.spectrum.values
            rank = values.numel() if found.is_whole else _rank_of(merged)
            self._short += limits.rank is not None and rank < limits.rank
            merged = nearest(found.spectrum, limits.keep(values, merged.shape, found.missing))
            kept = found.share_of_first(merged.rank)
        self._full += merged.rank == min(merged.shape) > FULL_FROM
        pair = (merged, wanted)
        maker.add(
            layer.target, layer.rows, layer.name, matrix=pair, vectors=vectors, rank_before=rank, kept_energy=kept
        )

    def _limits(self, layers: Sequence[AlignedLayer]) -> RankLimits:
        """The order's limits, with the one that a size for the whole file makes: all spectra are looked at first."""
        if self._order.size is None:
            return self._order.limits
        spectra: list[tuple[Tensor, tuple[int, int]]] = []
        for layer in layers:
            sources = self._sources_of(layer, self._strengths(layer.target))
            if sources is not None:
                merged = self._method.merge(sources, self._order.settings)
                most = min(self._order.limits.rank or SEEN_FOR_SIZE, SEEN_FOR_SIZE)
                found = _leading(merged, replace(self._order.limits, rank=most), sources)
                spectra.append((found.spectrum.values, merged.shape))
        return within_size(self._order.limits, spectra, self._order.size, self._dtype.itemsize)

    def _sources_of(self, layer: AlignedLayer, strengths: Sequence[float]) -> LayerDeltas | None:
        with readable(self._what, layer.name):
            deltas = layer.deltas(self._read, [n for n, strength in enumerate(strengths) if strength])
        used = [(delta.times(strengths[n]), strengths[n]) for n, delta in deltas.items()]
        if not used:
            return None
        check_range(self._what, layer.name, (delta for delta, _ in used))
        return LayerDeltas([delta for delta, _ in used], [strength for _, strength in used], layer.name)

    def _vectors(self, layer: AlignedLayer) -> Mapping[str, Mapping[int, Tensor]]:
        with readable(self._what, layer.name):
            return layer.vectors(self._read)

    def _strengths(self, target: TargetLayer) -> list[float]:
        strengths = [source.strength_in(target.part) for source in self._sources]
        for rule in self._order.layers:
            if rule.fits(target):
                factors = rule.factors * len(strengths) if len(rule.factors) == 1 else rule.factors
                strengths = [strength * factor for strength, factor in zip(strengths, factors, strict=True)]
        return strengths

    def _names(self) -> list[str]:
        return [source.file.name for source in self._sources]

    def _said_of_sources(self) -> list[dict[str, Any]]:
        return [source.said() for source in self._sources]

    def _notes(self, layers: Sequence[AlignedLayer]) -> list[str]:
        notes: list[str] = []
        for name, lora in zip(self._names(), self._loras, strict=True):
            notes += [f"{name}: {note}" for note in lora.report.notes]
            if lora.report.ignored:
                notes.append(f"{name}: {len(lora.report.ignored)} keys carry no weight of the model and were left out")
        if len(self._sources) > 1 and not any(len(layer.changes) > 1 for layer in layers):
            notes.append("the files have no layer in common, so each one's layers stand beside the other's")
        if self._short:
            notes.append(f"{self._short} layers are of a rank below {self._order.limits.rank} and keep theirs")
        if self._full:
            notes.append(f"{self._full} layers are stored in full rank; the method svd with a limit makes them smaller")
        return notes


def _leading(merged: Factored, limits: RankLimits, sources: LayerDeltas) -> PartialSpectrum:
    """The singular triples that the limits may keep: all of them by the factors, or, of a large matrix that has no
    small factors, by a sketch that tells exactly what it leaves out."""
    if merged.kronecker is not None and limits.given:
        values = merged.singular_values()
        left, kept, right = merged.kronecker.leading(limits.keep(values, merged.shape))
        return PartialSpectrum(Spectrum(left, kept, right), float(values[kept.numel() :].square().sum()), False)
    if merged.product is None or not limits.given or min(merged.shape) <= SKETCH_FROM:
        return PartialSpectrum(merged.spectrum, 0.0, is_whole=True)
    found = leading_spectrum(merged.dense().float(), limits, sources.draw(0, 0))
    spectrum = Spectrum(
        *(part.to(EXACT) for part in (found.spectrum.left, found.spectrum.values, found.spectrum.right))
    )
    return replace(found, spectrum=spectrum)


def _rank_of(merged: Factored) -> int:
    return min(merged.shape) if merged.kronecker is None else merged.singular_values().numel()


def _check(sources: Sequence[Source], order: MergeOrder) -> None:
    if order.method not in METHODS:
        raise BadSetting(f"the method should be one of {', '.join(METHODS)}, but is '{order.method}'")
    if not sources:
        raise BadSetting("there is no file to merge")
    method = METHODS[order.method]
    if method.files not in (None, len(sources)):
        raise BadSetting(f"{order.method} merges {method.files} files, and {len(sources)} were given")
    if "spread" in method.reads:
        order.settings.check_spread()
    if not method.cuts and (order.limits.given or order.size is not None):
        raise BadSetting(f"{order.method} keeps every rank; the method svd cuts it")
    check_strengths(sources)
    for rule in order.layers:
        if len(rule.factors) not in (1, len(sources)):
            raise BadSetting(
                f"'{rule.pattern}' should have one strength, or one for each of the {len(sources)} files; "
                f"it has {len(rule.factors)}"
            )


def _check_patterns(rules: Sequence[LayerStrengths], layers: Sequence[AlignedLayer]) -> None:
    idle = [rule.pattern for rule in rules if not any(rule.fits(layer.target) for layer in layers)]
    if idle:
        raise BadSetting(f"no layer that the files change fits {', '.join(repr(pattern) for pattern in idle)}")


def _dialect_of(lora: LoadedLora) -> str:
    return lora.report.dialect if lora.report.dialect in SPELLINGS else "kohya"


def _dtypes(loras: Sequence[LoadedLora]) -> set[torch.dtype]:
    return {t.dtype for lora in loras for p in lora.adapters for t in p.adapter.tensors() if t.is_floating_point()}


def _weighted(changes: Mapping[int, Tensor], strengths: Sequence[float]) -> Tensor:
    return torch.stack([change * strengths[number] for number, change in changes.items()]).sum(dim=0)


def _said(order: MergeOrder, method: Method) -> dict[str, Any]:
    """The order as the metadata tell it: only what had a say."""
    said: dict[str, Any] = {"method": order.method}
    said |= {name: getattr(order.settings, name) for name in sorted(method.reads)}
    said |= {name: limit for name, limit in asdict(order.limits).items() if limit is not None}
    if order.size is not None:
        said["size"] = order.size
    if order.layers:
        said["layers"] = [[rule.pattern, list(rule.factors)] for rule in order.layers]
    return said
