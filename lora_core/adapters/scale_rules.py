"""Decides the scale of each adapter layer: which alpha counts, and by what it is divided.

Precedence, first that is there: alpha tensor of the layer, pattern for the layer, alpha of the whole file, the rank.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from ..errors import FileDamaged

ADAPTER_METADATA = "lora_adapter_metadata"  # header field of diffusers >= 0.34: a LoraConfig, keys prefixed by part
PLAIN_ALPHAS = ("lora_alpha", "network_alpha", "alpha")  # header fields that some trainers write
CONFIG_PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
ALPHA_AT_MOST = 1e6  # either way; a larger one would make numbers that no weight can hold
PATTERN_LENGTH = 300  # characters; longer patterns are no layer names, and longer names fit none
QUANTIFIERS_AT_MOST = 2  # in a pattern; with more, or with a repeated group, fitting it could take for ever
PATTERNS_AT_MOST = 32  # with quantifiers; names of layers, which are looked up, may be as many as a model has
STEPS_AT_MOST = 500_000_000  # of fitting, at worst, for all layers of a file
NOTES_AT_MOST = 20  # on patterns; the reasons are the same
PLAIN_NAME = re.compile(r"\^?(?:[\w-]|\\?\.|\\-)+")  # a pattern that is the name of a layer, or the end of one
QUANTIFIER = re.compile(r"(?<!\\)[*+?{]")
REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
PEFT_WRAPPER = "base_model.model."  # behind it stands the name that PEFT itself fits patterns to
PEFT_DEFAULT_ALPHA = 8.0  # LoraConfig.lora_alpha of peft 0.21.2, for a configuration that leaves it out


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftScale:
    """What one LoraConfig says about scale. Source: peft 0.21.2, LoraConfig and LoraLayer.update_layer."""

    alpha: float | None = None
    rank_stabilised: bool = False  # scale = alpha / sqrt(rank) instead of alpha / rank
    alpha_pattern: "Patterns" = field(default_factory=lambda: Patterns({}))

    def alpha_of(self, name: str) -> float | None:
        """The alpha of a layer by its dotted name; a pattern fits the whole name or its end after a dot."""
        found = self.alpha_pattern.first(name)
        return self.alpha if found is None else found


class Patterns:
    """PEFT's table of patterns: the first that fits a layer's name counts. Names are looked up, not fitted."""

    def __init__(self, table: Mapping[str, float]) -> None:
        self._names: dict[str, tuple[int, float]] = {}  # "^" before those of whole names -> (place in the table, value)
        self._fitted: list[tuple[int, str, float]] = []
        self._steps = 0
        for place, (pattern, value) in enumerate(table.items()):
            if PLAIN_NAME.fullmatch(pattern):
                self._names.setdefault(pattern.replace("\\", ""), (place, value))
            else:
                self._fitted.append((place, pattern, value))

    def first(self, name: str) -> float | None:
        """The value of the first pattern that fits. Raises FileDamaged where fitting would take for ever."""
        starts = [0, *(found.end() for found in re.finditer(r"\.", name))]
        asked = [f"^{name}", *(name[start:] for start in starts)]
        found = [self._names[end] for end in asked if end in self._names]
        best = min(found, default=None)
        for place, pattern, value in self._fitted if len(name) <= PATTERN_LENGTH else ():
            if best is not None and best[0] < place:
                break
            self._steps += len(name) ** (1 + len(QUANTIFIER.findall(pattern)))
            if self._steps > STEPS_AT_MOST:
                raise FileDamaged("alpha_pattern", "its patterns would take too long to fit to the names of all layers")
            if _fits(pattern, name):
                return value
        return None if best is None else best[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRules:
    """The rules of one file."""

    by_part: Mapping[str, PeftScale] = field(default_factory=dict[str, PeftScale])  # "" holds for every part
    alpha_prefixes: frozenset[str] = frozenset()  # of layers' names, where layers of this prefix have alpha tensors

    def scale(self, layer: str, name: str, rank: int, alpha: float | None) -> tuple[float, float]:
        """(scale, alpha) of a layer.

        Args:
            layer: the layer's name as the file spells it, which tells the part.
            name: the same without the prefix of its dialect, which patterns are written for, unless PEFT wrapped it.
            rank: rows of its down matrix.
            alpha: its own alpha tensor's value, None if it has none.
        """
        config = self._config(layer)
        told = layer.removesuffix(name) in self.alpha_prefixes
        if alpha is None and not told:
            alpha = config.alpha_of(layer.partition(PEFT_WRAPPER)[2] or name)
        if alpha is None:
            return 1.0, float(rank)
        divisor = math.sqrt(rank) if config.rank_stabilised and not told else rank
        return alpha / divisor, alpha

    def _config(self, layer: str) -> PeftScale:
        for part in sorted(self.by_part, key=len, reverse=True):
            if part and layer.startswith(f"{part}."):
                return self.by_part[part]
        return self.by_part.get("", PeftScale())


def scale_rules(
    metadata: Mapping[str, str], peft_config: Mapping[str, Any] | None, *, alpha_prefixes: frozenset[str]
) -> tuple[ScaleRules, Sequence[str]]:
    """The rules of a file, and notes on what in its metadata could not be read.

    Args:
        metadata: the header's metadata, strings only.
        peft_config: adapter_config.json beside the file, if there is one.
        alpha_prefixes: of the parts whose layers have alpha tensors, so that alphas in the metadata don't count there.
    """
    by_part: dict[str, PeftScale] = {}
    notes: list[str] = []
    plain = next((number for name in PLAIN_ALPHAS if (number := _alpha(metadata, name, notes)) is not None), None)
    if plain is not None:
        by_part[""] = PeftScale(alpha=plain)
    if peft_config is not None:
        by_part[""] = _peft_scale(peft_config, notes)
    if ADAPTER_METADATA in metadata:
        by_part.update(_from_adapter_metadata(metadata[ADAPTER_METADATA], notes))
    if by_part and alpha_prefixes:
        notes.append("the file stores alpha per layer; the alpha in its metadata was not applied on top of those")
    return ScaleRules(by_part=by_part, alpha_prefixes=alpha_prefixes), notes


def patterns_of(config: Mapping[str, Any], name: str, notes: list[str]) -> Patterns:
    """A table of patterns of a PEFT configuration, such as alpha_pattern; notes: gets what was left out of it."""
    table = config.get(name)
    kept: dict[str, float] = {}
    left_out: list[str] = []
    fitted = 0
    for pattern, value in cast("dict[str, Any]", table if isinstance(table, dict) else {}).items():
        number = _number(value)
        fitted += PLAIN_NAME.fullmatch(pattern) is None
        if number is None or not _is_usable(pattern) or fitted > PATTERNS_AT_MOST:
            left_out.append(f"the {name} '{pattern[:60]}' can't be used and was left out")
        else:
            kept[pattern] = number
    notes += left_out[:NOTES_AT_MOST]
    if len(left_out) > NOTES_AT_MOST:
        notes.append(f"{len(left_out) - NOTES_AT_MOST} more of {name} can't be used and were left out")
    return Patterns(kept)


def json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text holds; empty if it is no JSON or no object."""
    try:
        fields: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _from_adapter_metadata(text: str, notes: list[str]) -> dict[str, PeftScale]:
    fields = json_object(text)
    if not fields:
        notes.append(f"the metadata field {ADAPTER_METADATA} can't be read; alpha is taken as the rank")
        return {}
    configs: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        part, _, rest = name.partition(".")
        part, rest = (part, rest) if part in CONFIG_PARTS else ("", name)
        configs.setdefault(part, {})[rest] = value
    return {part: _peft_scale(config, notes) for part, config in configs.items()}


def _peft_scale(config: Mapping[str, Any], notes: list[str]) -> PeftScale:
    is_peft = "peft_type" in config or "r" in config
    default = PEFT_DEFAULT_ALPHA if is_peft else None
    return PeftScale(
        alpha=_alpha(config, "lora_alpha" if "lora_alpha" in config else "alpha", notes, default),  # LoHa, LoKr: alpha
        rank_stabilised=config.get("use_rslora") is True,
        alpha_pattern=patterns_of(config, "alpha_pattern", notes),
    )


def _alpha(fields: Mapping[str, Any], name: str, notes: list[str], default: float | None = None) -> float | None:
    """The alpha that a field gives; `default` where there is no such field, None with a note where it can't be used."""
    value = fields.get(name, default)
    number = _number(value)
    if number is None and value not in (None, "", "None"):
        notes.append(f"{name} is '{str(value)[:60]}', which can't be used; alpha is taken as the rank")
    return number


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= ALPHA_AT_MOST else None


def _is_usable(pattern: str) -> bool:
    """Whether a pattern is a valid one that is fitted in no time."""
    if len(pattern) > PATTERN_LENGTH or REPEATED_GROUP.search(pattern):
        return False
    if len(QUANTIFIER.findall(pattern)) > QUANTIFIERS_AT_MOST:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _fits(pattern: str, name: str) -> bool:
    """PEFT's rule: the pattern is the whole name, or what stands behind one of its dots."""
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=10_000)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})")
