"""Takes every key of an adapter file apart and looks its layer up in a table of names; exact, no guessing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .absent_layers import why_absent
from .key_dialects import IGNORED, PARAMETERS, PREFIXES, Dialect, Parameter, Prefix
from .key_dialects.dialect import DOTS
from .key_report import KeyNote
from .name_table import MISSING_PARTS, NOT_THERE, NameTable, Place

PARSED_KEYS = 20_000  # keys whose parts are remembered: a file's family and its map both ask for them


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
    is_loose: bool = False  # found by its letters and numbers alone


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The keys of a file sorted by where they go."""

    layers: Sequence[LayerKeys]
    ignored: Sequence[KeyNote]
    unmatched: Sequence[KeyNote]


@lru_cache(maxsize=PARSED_KEYS)
def parse_key(key: str) -> ParsedKey | None:
    """Split a key into layer and parameter; None if no known parameter ends it."""
    plain = _without_slot(key)
    for parameter, dialect in PARAMETERS_BY_END.get(_last_segment(plain), ()):
        if plain.endswith(parameter.text) and len(plain) > len(parameter.text):
            return ParsedKey(key, plain[: -len(parameter.text)], parameter, dialect)
    return None


@lru_cache(maxsize=PARSED_KEYS)
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
        absent = why_absent(layer, table.layout.family.name) if found == NOT_THERE else None
        if isinstance(found, str):
            found, missing = absent or found, absent is not None or found in MISSING_PARTS
            nearest = None if missing else table.nearest.of(layer)
            notes = ignored if missing else unmatched
            notes.extend(KeyNote(key.key, found, nearest) for key in parsed)
            continue
        places, prefix, dialect, is_loose = found
        other = next((kept for place in places for kept in taken.get(place.path, ()) if _overlap(kept, place)), None)
        if other is not None:
            reason = f"conflict: '{other.layer}' already reaches this layer of the model"
            unmatched.extend(KeyNote(key.key, reason) for key in parsed)
            continue
        if holds_adapters and all(key.parameter.role in WHOLE for key in parsed):
            parsed = [_saved_whole(key, dialect) for key in parsed]
        keys, doubled = _by_role(parsed)
        unmatched.extend(doubled)
        entry = LayerKeys(layer, places, keys, _dialect_name(prefix, dialect, parsed), is_loose)
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
