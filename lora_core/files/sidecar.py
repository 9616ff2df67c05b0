"""The text file beside a LoRA that holds what a person wrote about it: <name>.metadata.json, as LoRA Manager keeps it.

Read and merged, never replaced: a field that is not ours stays letter by letter. Source of the fields:
willmiao/ComfyUI-Lora-Manager, py/utils/models.py (BaseModelMetadata, LoraMetadata) at 003ee55.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import FileDamaged, FileNotWritten
from .file_hashes import hash_file
from .safetensors_writer import write_whole
from .small_text import read_small_text

ENDING = ".metadata.json"
BYTES_AT_MOST = 8_000_000  # bytes; a file with a gallery's data has some 100,000
NOTES, SITE, WORDS = "notes", "civitai", "trainedWords"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is written beside a file; empty where nothing is."""

    notes: str = ""
    trigger_words: Sequence[str] = ()
    title: str = ""
    base_model: str = ""


def sidecar_path(file: Path) -> Path:
    """Where the text beside an adapter file is kept."""
    return file.with_name(file.stem + ENDING)


def read_sidecar(file: Path) -> Sidecar:
    """What is written beside an adapter file. Raises FileDamaged if that is no table."""
    fields = _fields(file)
    site: Any = fields.get(SITE)
    words: Any = cast("dict[str, Any]", site).get(WORDS) if isinstance(site, dict) else None
    return Sidecar(
        notes=_text(fields.get(NOTES)),
        trigger_words=tuple(str(word) for word in cast("list[Any]", words)) if isinstance(words, list) else (),
        title=_text(fields.get("model_name")),
        base_model=_text(fields.get("base_model")),
    )


def write_sidecar(file: Path, notes: str, trigger_words: Sequence[str]) -> Sidecar:
    """Write notes and trigger words beside an adapter file, in one step; every other field stays as it is.

    Raises FileDamaged when what is there can't be read, since merging would lose it, and FileNotWritten.
    """
    path = sidecar_path(file)
    fields = _fields(file) or _new_fields(file)
    site: Any = fields.get(SITE)
    if site is not None and not isinstance(site, dict):
        raise FileNotWritten(path.name, f"its field '{SITE}' is no table, and would be lost", "Repair it first.")
    fields[NOTES] = notes
    if trigger_words or site:
        fields[SITE] = {**cast("dict[str, Any]", site or {}), WORDS: list(trigger_words)}
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
    return read_sidecar(file)


def _new_fields(file: Path) -> dict[str, Any]:
    """The fields that LoRA Manager asks for in every such file."""
    status = file.stat()
    return {
        "file_name": file.stem,
        "model_name": file.stem,
        "file_path": file.as_posix(),
        "size": status.st_size,
        "modified": status.st_mtime,
        "sha256": hash_file(file).sha256,
        "base_model": "Unknown",
        "preview_url": "",
        "from_civitai": False,
    }


def _fields(file: Path) -> dict[str, Any]:
    path = sidecar_path(file)
    try:
        fields: object = json.loads(read_small_text(path, BYTES_AT_MOST, with_folder_of=file))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)[:80]
        raise FileDamaged(path.name, f"it can't be read ({why})", "Repair or remove it.") from None
    if not isinstance(fields, dict):
        raise FileDamaged(path.name, "it holds no table", "Repair or remove it.")
    return dict(cast("Mapping[str, Any]", fields))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
