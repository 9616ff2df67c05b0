"""Reads only the metadata of a safetensors file, fast enough to list thousands of files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .metadata import TEXTS, first_text
from .safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES

FIRST_BYTES = 16_384  # bytes read at once; most metadata ends within them
BYTES_AT_MOST = 1_000_000  # of a header that are read for a list; a longer one says nothing there
OPENS = '{"__metadata__":'  # how the safetensors library and every trainer begin the header
DECODER = json.JSONDecoder()
WHITE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class LightFacts:
    """What a list of files shows; "" where a file says nothing in the first field of its header."""

    title: str = ""
    base_model: str = ""


NOTHING = LightFacts()


def read_light(path: Path) -> LightFacts:
    """Title and base model of a file, NOTHING where they are not told or can't be read. Never raises for a bad file."""
    try:
        metadata = _metadata(path)
    except (OSError, ValueError, RecursionError):
        return NOTHING
    base = first_text(metadata, TEXTS["base_model"]) or first_text(metadata, TEXTS["architecture"])
    title = first_text(metadata, TEXTS["title"]) or first_text(metadata, TEXTS["output_name"])
    return LightFacts((title or "")[:200], (base or "")[:80])


def _metadata(path: Path) -> Mapping[str, str]:
    with path.open("rb", buffering=0) as file:
        start = file.read(FIRST_BYTES)
        header_bytes = int.from_bytes(start[:LENGTH_BYTES], "little")
        text = start[LENGTH_BYTES : LENGTH_BYTES + header_bytes]
        if header_bytes > MAX_HEADER_BYTES or not text.startswith(OPENS.encode()):
            return {}
        try:
            return _first_field(text.decode("utf-8", "ignore"))
        except ValueError:
            if header_bytes > BYTES_AT_MOST:
                return {}
            file.seek(LENGTH_BYTES)
            return _first_field(file.read(header_bytes).decode("utf-8"))


def _first_field(text: str) -> Mapping[str, str]:
    start = WHITE.match(text, len(OPENS))
    value: Any = DECODER.raw_decode(text, start.end() if start else len(OPENS))[0]
    if not isinstance(value, dict):
        return {}
    return {str(name): str(entry) for name, entry in cast("dict[Any, Any]", value).items()}
