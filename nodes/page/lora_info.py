"""Gathers what is known of one LoRA file: what it holds, what it says of itself, and what a person wrote beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...lora_core import LoraError, LoraFile, open_lora
from ...lora_core.file_work.block_sums import BlockNorm, block_norms
from ...lora_core.files.file_hashes import hash_file
from ...lora_core.files.lora_file import identify
from ...lora_core.files.metadata import read_about
from ...lora_core.files.sidecar import Sidecar
from ...lora_core.files.trigger_words import suggested_words
from ...lora_core.loading.inspection import inspect_file
from ...lora_core.names.key_map import parse_key
from ..host_files.inside import find_inside
from ..host_files.loading import CACHE
from ..host_files.lora_notes import sidecar_of
from .lora_library import picture_beside

HEADER_AT_MOST = 4_000_000  # bytes of a header that is read to be shown; a run reads more
FIELDS_AT_MOST = 300  # of the metadata that are sent
VALUE_AT_MOST = 20_000  # characters of one metadata value that are sent; what is cut says so
ALPHA = "alpha"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraInfo:
    """Everything that the info dialog shows; empty where a file says nothing."""

    name: str
    bytes: int
    modified: int  # seconds since the epoch
    problem: str = ""  # why the file itself could not be read
    family: str = ""
    dialect: str = ""
    algorithms: Mapping[str, int] = field(default_factory=dict[str, int])  # algorithm -> layers
    rank: Sequence[float] = ()  # smallest and largest
    alpha: Sequence[float] = ()  # smallest and largest
    keys: int = 0
    about: Sequence[str] = ()  # lines
    words: Sequence[Mapping[str, Any]] = ()  # {"text", "share", "source"} of the training
    trigger_words: Sequence[str] = ()  # what the stack node puts out
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: str = ""
    written_words: Sequence[str] = ()  # trigger words of the sidecar
    sidecar_problem: str = ""
    preview: bool = False


@dataclass(frozen=True, slots=True)
class HashInfo:
    """The hashes of one file, and whether those stored in it are right."""

    name: str
    hashes: Mapping[str, Any]
    lines: Sequence[str]


def lora_info(name: str) -> LoraInfo:
    """What is known of the file of a name. Raises FileMissing; a damaged file is told in `problem`."""
    path = find_inside(name)
    identity = identify(path)
    sidecar, sidecar_problem = sidecar_of(name)
    common: dict[str, Any] = {
        "name": name,
        "bytes": identity.size,
        "modified": identity.modified // 1_000_000_000,
        "notes": sidecar.notes,
        "written_words": sidecar.trigger_words,
        "trigger_words": sidecar.trigger_words,
        "sidecar_problem": sidecar_problem,
        "preview": picture_beside(path) is not None,
    }
    try:
        return LoraInfo(**(common | _inside(open_lora(path, header_at_most=HEADER_AT_MOST), sidecar)))
    except LoraError as error:
        return LoraInfo(**common, problem=str(error))


def hash_info(name: str) -> HashInfo:
    """The hashes of the file of a name, computed now."""
    path = find_inside(name)
    metadata = open_lora(path, header_at_most=HEADER_AT_MOST).header.metadata
    hashes = hash_file(path)
    return HashInfo(name, hashes.as_json(metadata), hashes.lines(metadata))


def norms(name: str) -> Sequence[BlockNorm]:
    """The size of the change of each block, of a file that a run has loaded; empty where none has."""
    loaded = CACHE.loaded(find_inside(name))
    return block_norms(loaded) if loaded else ()


def _inside(file: LoraFile, sidecar: Sidecar) -> dict[str, Any]:
    report = inspect_file(file)
    about = read_about(file.header.metadata)
    alphas = _alphas(file)
    return {
        "family": report.file_family.name,
        "dialect": report.dialect,
        "algorithms": dict(report.algorithms),
        "rank": report.ranks or (),
        "alpha": (min(alphas), max(alphas)) if alphas else (),
        "keys": report.keys,
        "about": about.lines(),
        "words": [{"text": w.text, "share": w.share, "source": w.source} for w in about.trigger_words],
        "trigger_words": suggested_words(sidecar.trigger_words, about.trigger_phrase, about.trigger_words),
        "metadata": _shown(file.header.metadata),
    }


def _alphas(file: LoraFile) -> list[float]:
    found = [key for key in file.header.entries if (parsed := parse_key(key)) and parsed.parameter.role == ALPHA]
    with file.tensors() as tensors:
        numbers = [tensors.tensor(key) for key in found if not file.header.entries[key].shape]
    return [float(number) for number in numbers if bool(number.isfinite())]


def _shown(metadata: Mapping[str, str]) -> dict[str, str]:
    """The first fields by their names, with a last one that says how many more there are."""
    fields = sorted(metadata.items())
    shown = {_cut(key): _cut(value) for key, value in fields[:FIELDS_AT_MOST]}
    more = len(fields) - FIELDS_AT_MOST
    return shown | ({"...": f"and {more} more fields"} if more > 0 else {})


def _cut(value: str) -> str:
    more = len(value) - VALUE_AT_MOST
    return f"{value[:VALUE_AT_MOST]} ... and {more} more characters" if more > 0 else value
