"""Looks every key of an adapter file up in a table of names built from the model's own paths; exact, no guessing."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from .key_dialects import IGNORED, PARAMETERS, PREFIXES, Dialect, Parameter, Prefix
from .key_dialects.dialect import CLIPS, DOTS, NOT_CLIP, TEXT_ENCODER_BY_NAME, UNDERSCORES
from .key_report import KeyNote
from .nearest import NearestNames
from .path_names import Name, fused_names, names_of_part
from .target_layer import UNET, ModelLayout, TargetLayer

PARSED_KEYS = 20_000  # keys whose parts are remembered: a file's family and its map both ask for them

NOT_THERE = "no layer of this name in the model"
NO_CLIP = "for a text encoder; no CLIP is connected"
OTHER_CLIP = "for a text encoder that this CLIP does not have"
NO_MODEL = "for the denoiser; only a CLIP is connected"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an adapter acts: a layer of the model by path, or some rows of its weight."""

    path: str
    rows: tuple[int, int] | None = None  # [start, stop) of the output rows; None for all
    swap_halves: bool = False  # the file has the second half of the rows first
    source_rows: tuple[int, int] | None = None  # [start, stop) of the file's rows, where it fuses several layers


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key taken apart: the layer as the file spells it, and the parameter behind it."""

    key: str
    layer: str  # prefix and layer name, as in the file
    parameter: Parameter
    dialect: Dialect  # of the parameter


@dataclass(frozen=True, slots=True)
class LayerKeys:
    """All keys of one layer of the file, and the place in the model that they change.

    A layer that the file fuses and the model keeps apart has a place for each of its runs of rows.
    """

    layer: str
    places: tuple[Place, ...]
    keys: Mapping[str, ParsedKey]  # role -> key
    dialect: str


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The keys of a file sorted by where they go."""

    layers: Sequence[LayerKeys]
    ignored: Sequence[KeyNote]
    unmatched: Sequence[KeyNote]


class NameTable:
    """Every name that any trainer would give to any layer of one model."""

    def __init__(self, layout: ModelLayout) -> None:
        self._layout = layout
        self._names: dict[tuple[str, str], dict[str, tuple[Place, ...]]] = {}  # (part, joined) -> name -> places
        self._twice: dict[tuple[str, str], set[str]] = {}
        for part in sorted(layout.parts):
            self._add_part(part)
        self._names[TEXT_ENCODER_BY_NAME, DOTS] = dict(self._encoder_paths())
        self._prefixes = [(prefix, dialect, self._parts_of(prefix)) for prefix, dialect in PREFIXES]

    def _add_part(self, part: str) -> None:
        own = {target.inner: target for target in self._layout.targets.values() if target.part == part}
        shapes = {inner: target.shape for inner, target in own.items()}
        known: dict[str, Name] = {inner: Name(inner, inner) for inner in own}
        twice: set[str] = set()  # dotted names that stand for two layers
        for name in names_of_part(part, shapes):
            first = known.setdefault(name.name, name)
            if first != name and _place_of(own, first) != _place_of(own, name):
                twice.add(name.name)
        places: dict[str, tuple[Place, ...]] = {name: (_place_of(own, entry),) for name, entry in known.items()}
        for entry in fused_names(known, shapes):
            places[entry.name] = (*places.get(entry.name, ()), _place_of(own, entry))
        self._names[part, DOTS], self._twice[part, DOTS] = places, twice
        flat: dict[str, tuple[Place, ...]] = {}
        flat_twice = {name.replace(DOTS, UNDERSCORES) for name in twice}
        for name, place in places.items():
            spelled = name.replace(DOTS, UNDERSCORES)
            if flat.setdefault(spelled, place) != place:
                flat_twice.add(spelled)
        self._names[part, UNDERSCORES], self._twice[part, UNDERSCORES] = flat, flat_twice

    def _encoder_paths(self) -> Iterator[tuple[str, tuple[Place, ...]]]:
        """Paths that begin with the text encoder's own name, and those of a lone language model without it."""
        for path, target in self._layout.targets.items():
            if target.part != UNET:
                yield path, (Place(path),)
                if target.part not in CLIPS:
                    yield path.partition(DOTS)[2], (Place(path),)

    def _parts_of(self, prefix: Prefix) -> tuple[str, ...]:
        """The parts at hand that a prefix may stand for, in the order in which they are tried."""
        others = tuple(sorted(self.parts - {UNET, *CLIPS}))
        parts = [part for entry in prefix.parts for part in (others if entry == NOT_CLIP else (entry,))]
        return tuple(dict.fromkeys(parts))

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the model that are at hand."""
        return self._layout.parts

    def find(self, layer: str) -> tuple[tuple[Place, ...], Prefix, Dialect] | str:
        """The places that a layer's name stands for, or the reason why there is none."""
        for prefix, dialect, parts in self._prefixes:
            if not layer.startswith(prefix.text):
                continue
            name = layer[len(prefix.text) :]
            for part in parts:
                places = self._names.get((part, prefix.joined), {}).get(name)
                if places is None:
                    continue
                if name in self._twice.get((part, prefix.joined), ()):
                    return "the name fits two layers of the model"
                return places, prefix, dialect
            missing = self._missing_part(prefix, parts, name) if prefix.text else None
            if missing is not None:
                return missing
        return NOT_THERE

    def _missing_part(self, prefix: Prefix, parts: Sequence[str], name: str) -> str | None:
        """Why the part that a prefix announces is not at hand; None if it is."""
        meant = {name.split(DOTS)[0]} if TEXT_ENCODER_BY_NAME in parts else set(parts)
        if self.parts & meant:
            return None
        if UNET in prefix.parts:
            return NO_MODEL
        return OTHER_CLIP if self.parts - {UNET} else NO_CLIP

    @cached_property
    def nearest(self) -> NearestNames:
        """Finds the most similar own or known name; built only when a key fits nothing."""
        dotted = (names for (_, joined), names in self._names.items() if joined == DOTS)
        return NearestNames(name for names in dotted for name in names)


def _place_of(own: Mapping[str, TargetLayer], name: Name) -> Place:
    return Place(own[name.inner].path, name.rows, name.swap_halves, name.source_rows)


@lru_cache(maxsize=PARSED_KEYS)
def parse_key(key: str) -> ParsedKey | None:
    """Split a key into layer and parameter; None if no known parameter ends it."""
    plain = _without_slot(key)
    for parameter, dialect in PARAMETERS_BY_END.get(_last_segment(plain), ()):
        if plain.endswith(parameter.text) and len(plain) > len(parameter.text):
            return ParsedKey(key, plain[: -len(parameter.text)], parameter, dialect)
    return None


def bare_name(layer: str) -> str:
    """A layer's name without the prefix that announces the part.

    Example: lora_unet_conv_in -> conv_in
    """
    return next(layer[len(prefix.text) :] for prefix, _ in PREFIXES if layer.startswith(prefix.text))


def _without_slot(key: str) -> str:
    """The key without the adapter's name that PEFT may write behind or inside a parameter.

    Examples: blocks.0.q.lora_A.default.weight -> blocks.0.q.lora_A.weight, q.ia3_l.default -> q.ia3_l
    """
    segments = key.split(DOTS)
    if len(segments) < 3:
        return key
    before, slot, last = segments[-3:]
    if f".{before}.{last}" in SLOTTED:
        return DOTS.join([*segments[:-2], last])
    if f".{slot}" in SLOTTED and f".{slot}.{last}" not in SLOTTED:
        return DOTS.join(segments[:-1])
    return key


def _last_segment(text: str) -> str:
    return LAST_SEGMENT.split(text)[-1]


LAST_SEGMENT = re.compile(r"[.:]")
PARAMETERS_BY_END: dict[str, list[tuple[Parameter, Dialect]]] = {}  # last segment -> parameters, longest first
for _entry in PARAMETERS:
    PARAMETERS_BY_END.setdefault(_last_segment(_entry[0].text), []).append(_entry)

SLOTTED = frozenset(parameter.text for parameter, _ in PARAMETERS if parameter.slot)

WHOLE_NORM = "scale"  # alone on a layer; beside matrices it is their scale
WHOLE: Mapping[str, str] = {"ia3_weight": "set_weight", WHOLE_NORM: "set_weight", "whole_bias": "set_bias"}
TWO_MODELS = (("transformer.", "transformer_2."),)  # prefixes of the two denoisers of a Wan 2.2 pipeline
SECOND_MODEL = "for the second denoiser of the pipeline; the file's first one is applied"

MISSING_PARTS = frozenset({NO_CLIP, OTHER_CLIP, NO_MODEL})


def map_keys(keys: Iterable[str], table: NameTable) -> KeyMap:
    """Sort the keys of a file: by layer of the model, ignored with a reason, or unmatched with a reason.

    Every key lands in exactly one place. Two layers of the file that reach one layer of the model are a conflict:
    the first is kept, the second is unmatched.
    """
    ignored: list[KeyNote] = []
    unmatched: list[KeyNote] = []
    by_layer: dict[str, list[ParsedKey]] = {}
    keys = list(keys)
    second = _second_model(keys)
    for key in keys:
        reason = next((entry.reason for entry in IGNORED if entry.pattern.search(key)), None)
        parsed = parse_key(key)
        if reason is not None or (second and key.startswith(second)):
            ignored.append(KeyNote(key, reason or SECOND_MODEL))
        elif parsed is None:
            unmatched.append(KeyNote(key, "no adapter parameter that is known", table.nearest.of(key)))
        else:
            by_layer.setdefault(parsed.layer, []).append(parsed)
    layers = _place_layers(by_layer, table, ignored, unmatched)
    return KeyMap(layers, ignored, unmatched)


def _second_model(keys: Sequence[str]) -> str | None:
    """The prefix of the second denoiser's keys, where a file holds those of both."""
    for first, second in TWO_MODELS:
        if any(key.startswith(first) for key in keys) and any(key.startswith(second) for key in keys):
            return second
    return None


def _place_layers(
    by_layer: Mapping[str, Sequence[ParsedKey]], table: NameTable, ignored: list[KeyNote], unmatched: list[KeyNote]
) -> list[LayerKeys]:
    layers: list[LayerKeys] = []
    taken: dict[str, list[LayerKeys]] = {}
    holds_adapters = any(key.parameter.role not in WHOLE for keys in by_layer.values() for key in keys)
    miscounted = _miscounted(by_layer, table)
    for layer, parsed in by_layer.items():
        found = miscounted.get(layer.partition(":")[0]) if ":" in layer else None
        found = found or table.find(layer)
        if isinstance(found, str):
            missing = found in MISSING_PARTS
            nearest = None if missing else table.nearest.of(layer)
            notes = ignored if missing else unmatched
            notes.extend(KeyNote(key.key, found, nearest) for key in parsed)
            continue
        places, prefix, dialect = found
        other = next((kept for place in places for kept in taken.get(place.path, ()) if _overlap(kept, place)), None)
        if other is not None:
            reason = f"conflict: '{other.layer}' already reaches this layer of the model"
            unmatched.extend(KeyNote(key.key, reason) for key in parsed)
            continue
        if holds_adapters and all(key.parameter.role in WHOLE for key in parsed):
            parsed = [_saved_whole(key, dialect) for key in parsed]
        keys, doubled = _by_role(parsed)
        unmatched.extend(doubled)
        entry = LayerKeys(layer, places, keys, _dialect_name(prefix, dialect, parsed))
        layers.append(entry)
        for place in places:
            taken.setdefault(place.path, []).append(entry)
    return layers


def _miscounted(by_layer: Iterable[str], table: NameTable) -> Mapping[str, str]:
    """Why the numbered layers of a part can't be told: the file counts other layers than the model has."""
    numbers: dict[str, set[str]] = {}
    for layer in by_layer:
        part, colon, number = layer.partition(":")
        if colon:
            numbers.setdefault(part, set()).add(number)
    reasons: dict[str, str] = {}
    for part, found in numbers.items():
        after_last = f"{part}:{len(found)}"
        if isinstance(table.find(f"{part}:0"), str):
            continue
        if isinstance(table.find(f"{part}:{len(found) - 1}"), str) or not isinstance(table.find(after_last), str):
            reasons[part] = f"layers by number: the file counts {len(found)}, the model another number of them"
    return reasons


def _saved_whole(key: ParsedKey, dialect: Dialect) -> ParsedKey:
    """The key with its meaning beside adapters: a layer stored whole takes the place of the model's."""
    whole = WHOLE.get(key.parameter.role)
    if whole is None or not (dialect.saves_modules or key.parameter.role == WHOLE_NORM):
        return key
    return replace(key, parameter=replace(key.parameter, role=whole))


def _overlap(kept: LayerKeys, place: Place) -> bool:
    others = (other for other in kept.places if other.path == place.path)
    return any(_share_rows(other.rows, place.rows) for other in others)


def _share_rows(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    if one is None or other is None:
        return True
    return one[0] < other[1] and other[0] < one[1]


def _by_role(parsed: Sequence[ParsedKey]) -> tuple[dict[str, ParsedKey], list[KeyNote]]:
    keys: dict[str, ParsedKey] = {}
    doubled: list[KeyNote] = []
    for key in parsed:
        first = keys.setdefault(key.parameter.role, key)
        if first is not key:
            doubled.append(KeyNote(key.key, f"conflict: '{first.key}' already gives this parameter"))
    return keys, doubled


def _dialect_name(prefix: Prefix, dialect: Dialect, parsed: Sequence[ParsedKey]) -> str:
    """The prefix names the dialect, or, where it stands for nothing special, the parameter does."""
    return parsed[0].dialect.name if not prefix.text else dialect.name
