"""The texts of nodes as locales keep them, the marks by which a translation tells what English it was made from."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .layout import ROOT

LOCALES = ROOT / "locales"
ENGLISH = "en"
TEXTS, MARKS = "nodeDefs.json", "made_from.json"
MARK_DIGITS = 12  # hexadecimal

Texts = Mapping[str, Any]  # node id -> display_name, description, inputs, outputs


def texts_of(schemas: Iterator[Any]) -> Texts:
    """What the schemas of nodes say in English; see the host's io.Schema."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {entry.id: _entry(entry) for entry in schema.inputs},
            "outputs": {str(number): _entry(entry) for number, entry in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


def _entry(entry: Any) -> dict[str, str]:
    return {"name": entry.display_name or entry.id, "tooltip": entry.tooltip}


def flat(texts: Texts, path: str = "") -> dict[str, str]:
    """Every text by its place, such as "LoraLoomApply/inputs/model/tooltip"."""
    found: dict[str, str] = {}
    for name, value in texts.items():
        place = f"{path}/{name}" if path else name
        found |= {place: value} if isinstance(value, str) else flat(value, place)
    return found


def marks_of(english: Texts) -> dict[str, str]:
    """Place -> a hash of the English text there."""
    return {
        place: hashlib.sha256(text.encode()).hexdigest()[:MARK_DIGITS] for place, text in sorted(flat(english).items())
    }


def read(language: str, name: str = TEXTS) -> dict[str, Any]:
    """The content of a file of a language; empty where it has none yet."""
    if not (LOCALES / language / name).exists():
        return {}
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def write(language: str, name: str, content: Mapping[str, Any]) -> Path:
    path = LOCALES / language / name
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return path


def languages() -> list[str]:
    return sorted(path.parent.name for path in LOCALES.glob(f"*/{TEXTS}"))


def stale(language: str, english: Texts) -> list[str]:
    """Places of a translation that are missing, not in English, or made from another English text."""
    own, wanted, made_from = flat(read(language)), marks_of(english), read(language, MARKS)
    return sorted({*own} ^ {*wanted} | {place for place, mark in wanted.items() if made_from.get(place) != mark})
