"""PEFT's LoraConfig of the layers that a file holds."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...names.key_dialects.dialect import DOTS


@dataclass(frozen=True, slots=True)
class Written:
    """What a LoraConfig says of one layer."""

    rank: int
    alpha: float | None
    has_magnitude: bool
    has_bias: bool


def configs_as_metadata(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """What diffusers keeps in a header for the LoraConfigs of all parts: one table, the part before each field."""
    fields = {prefix + name: value for prefix, config in configs.items() for name, value in config.items()}
    return json.dumps(fields, indent=2, sort_keys=True)


def lora_config(layers: Mapping[str, Written], names: Iterable[str]) -> dict[str, Any]:
    """A LoraConfig of peft 0.21.2 for these layers, and for no others of the model's `names`."""
    known = list(names)
    ranks = {name: written.rank for name, written in layers.items() if written.rank}
    alphas = {name: _alpha_in_config(layers[name]) for name in ranks}
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else rank
    ends = {end for name in known for end in _ends(name)}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": _target_modules(layers.keys(), known),
        "rank_pattern": {_pattern(name, ends): other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {_pattern(name, ends): other for name, other in alphas.items() if other != alpha},
        "use_rslora": False,
        "use_dora": any(written.has_magnitude for written in layers.values()),
        "lora_bias": any(written.has_bias for written in layers.values()),
        "init_lora_weights": True,
    }


def _alpha_in_config(written: Written) -> float:
    return float(written.rank) if written.alpha is None else written.alpha


def _target_modules(layers: Collection[str], names: Iterable[str]) -> list[str] | str:
    """The layers by name; as a pattern where a name is also the end of another layer's, which PEFT would take too."""
    meant = list(layers)
    others = (name for name in names if name not in layers)
    if set(meant).isdisjoint(end for name in others for end in _ends(name)):
        return meant
    return "|".join(re.escape(name) for name in meant)


def _pattern(name: str, ends: Collection[str]) -> str:
    """The pattern that fits this layer alone, also where its name is the end of another one's."""
    return f"^{re.escape(name)}" if name in ends else re.escape(name)


def _ends(name: str) -> Iterable[str]:
    segments = name.split(DOTS)
    return (DOTS.join(segments[start:]) for start in range(1, len(segments)))
