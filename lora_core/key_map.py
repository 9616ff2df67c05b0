"""Looks every key of an adapter file up in a table of names built from the model's own paths; exact, no guessing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .key_dialects import IGNORED, PARAMETERS, PREFIXES, Dialect, Parameter, Prefix
from .key_dialects.dialect import DOTS, TEXT_ENCODER_BY_NAME, UNDERSCORES
from .key_report import KeyNote
from .nearest import NearestNames
from .path_names import NAMES_OF_OTHER_TEXT_ENCODERS, NAMES_OF_PART
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


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key taken apart: the layer as the file spells it, and the parameter behind it."""

    key: str
    layer: str  # prefix and layer name, as in the file
    parameter: Parameter
    dialect: Dialect  # of the parameter


@dataclass(frozen=True, slots=True)
class LayerKeys:
    """All keys of one layer of the file, and the place in the model that they change."""

    layer: str
    place: Place
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
        self._names: dict[tuple[str, str], dict[str, Place]] = {}  # (part, joined) -> name -> place
        self._twice: dict[tuple[str, str], set[str]] = {}
        for part in sorted(layout.parts):
            self._add_part(part)
        self._names[TEXT_ENCODER_BY_NAME, DOTS] = {
            path: Place(path) for path, target in layout.targets.items() if target.part != UNET
        }

    def _add_part(self, part: str) -> None:
        own = {target.inner: target for target in self._layout.targets.values() if target.part == part}
        known = list(self._part_names(part, own))
        for joined in (DOTS, UNDERSCORES):
            names: dict[str, Place] = {}
            twice: set[str] = set()
            for name, place in known:
                spelled = name if joined == DOTS else name.replace(DOTS, joined)
                first = names.setdefault(spelled, place)
                if first is not place and first != place:
                    twice.add(spelled)
            self._names[part, joined] = names
            self._twice[part, joined] = twice

    @staticmethod
    def _part_names(part: str, own: Mapping[str, TargetLayer]) -> Iterator[tuple[str, Place]]:
        for inner, target in own.items():
            yield inner, Place(target.path)
        shapes = {inner: target.shape for inner, target in own.items()}
        for source in NAMES_OF_PART.get(part, NAMES_OF_OTHER_TEXT_ENCODERS):
            for name in source(shapes):
                yield name.name, Place(own[name.inner].path, name.rows, name.swap_halves)

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the model that are at hand."""
        return self._layout.parts

    def find(self, layer: str) -> tuple[Place, Prefix, Dialect] | str:
        """The place that a layer's name stands for, or the reason why there is none."""
        for prefix, dialect in PREFIXES:
            if not layer.startswith(prefix.text):
                continue
            name = layer[len(prefix.text) :]
            for part in prefix.parts:
                place = self._names.get((part, prefix.joined), {}).get(name)
                if place is None:
                    continue
                if name in self._twice.get((part, prefix.joined), ()):
                    return "the name fits two layers of the model"
                return place, prefix, dialect
            missing = self._missing_part(prefix, name) if prefix.text else None
            if missing is not None:
                return missing
        return NOT_THERE

    def _missing_part(self, prefix: Prefix, name: str) -> str | None:
        """Why the part that a prefix announces is not at hand; None if it is."""
        parts = {name.split(DOTS)[0]} if TEXT_ENCODER_BY_NAME in prefix.parts else set(prefix.parts)
        if self.parts & parts:
            return None
        if UNET in parts:
            return NO_MODEL
        return OTHER_CLIP if self.parts - {UNET} else NO_CLIP

    @cached_property
    def nearest(self) -> NearestNames:
        """Finds the most similar own or known name; built only when a key fits nothing."""
        dotted = (names for (_, joined), names in self._names.items() if joined == DOTS)
        return NearestNames(name for names in dotted for name in names)


@lru_cache(maxsize=PARSED_KEYS)
def parse_key(key: str) -> ParsedKey | None:
    """Split a key into layer and parameter; None if no known parameter ends it."""
    plain = _without_slot(key)
    for parameter, dialect in PARAMETERS_BY_END.get(plain.rpartition(DOTS)[2], ()):
        if plain.endswith(parameter.text) and len(plain) > len(parameter.text):
            return ParsedKey(key, plain[: -len(parameter.text)], parameter, dialect)
    return None


def bare_name(layer: str) -> str:
    """A layer's name without the prefix that announces the part.

    Example: lora_unet_conv_in -> conv_in
    """
    return next(layer[len(prefix.text) :] for prefix, _ in PREFIXES if layer.startswith(prefix.text))


def _without_slot(key: str) -> str:
    """The key without the adapter's name that PEFT may write before the last segment.

    Example: blocks.0.q.lora_A.default.weight -> blocks.0.q.lora_A.weight
    """
    segments = key.split(DOTS)
    if len(segments) < 4 or f".{segments[-3]}.{segments[-1]}" not in SLOTTED:
        return key
    return DOTS.join([*segments[:-2], segments[-1]])


PARAMETERS_BY_END: dict[str, list[tuple[Parameter, Dialect]]] = {}  # last segment -> parameters, longest first
for _entry in PARAMETERS:
    PARAMETERS_BY_END.setdefault(_entry[0].text.rpartition(DOTS)[2], []).append(_entry)

SLOTTED = frozenset(parameter.text for parameter, _ in PARAMETERS if parameter.slot)

MISSING_PARTS = frozenset({NO_CLIP, OTHER_CLIP, NO_MODEL})


def map_keys(keys: Iterable[str], table: NameTable) -> KeyMap:
    """Sort the keys of a file: by layer of the model, ignored with a reason, or unmatched with a reason.

    Every key lands in exactly one place. Two layers of the file that reach one layer of the model are a conflict:
    the first is kept, the second is unmatched.
    """
    ignored: list[KeyNote] = []
    unmatched: list[KeyNote] = []
    by_layer: dict[str, list[ParsedKey]] = {}
    for key in keys:
        reason = next((entry.reason for entry in IGNORED if entry.pattern.search(key)), None)
        parsed = parse_key(key)
        if reason is not None:
            ignored.append(KeyNote(key, reason))
        elif parsed is None:
            unmatched.append(KeyNote(key, "no adapter parameter that is known", table.nearest.of(key)))
        else:
            by_layer.setdefault(parsed.layer, []).append(parsed)
    layers = _place_layers(by_layer, table, ignored, unmatched)
    return KeyMap(layers, ignored, unmatched)


def _place_layers(
    by_layer: Mapping[str, Sequence[ParsedKey]], table: NameTable, ignored: list[KeyNote], unmatched: list[KeyNote]
) -> list[LayerKeys]:
    layers: list[LayerKeys] = []
    taken: dict[str, list[LayerKeys]] = {}
    for layer, parsed in by_layer.items():
        found = table.find(layer)
        if isinstance(found, str):
            missing = found in MISSING_PARTS
            nearest = None if missing else table.nearest.of(layer)
            notes = ignored if missing else unmatched
            notes.extend(KeyNote(key.key, found, nearest) for key in parsed)
            continue
        place, prefix, dialect = found
        other = next((kept for kept in taken.get(place.path, ()) if _overlap(kept.place, place)), None)
        if other is not None:
            reason = f"conflict: '{other.layer}' already reaches this layer of the model"
            unmatched.extend(KeyNote(key.key, reason) for key in parsed)
            continue
        keys, doubled = _by_role(parsed)
        unmatched.extend(doubled)
        entry = LayerKeys(layer, place, keys, _dialect_name(prefix, dialect, parsed))
        layers.append(entry)
        taken.setdefault(place.path, []).append(entry)
    return layers


def _overlap(one: Place, other: Place) -> bool:
    if one.rows is None or other.rows is None:
        return True
    return one.rows[0] < other.rows[1] and other.rows[0] < one.rows[1]


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
