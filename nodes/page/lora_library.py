"""Lists the files of the loras folders with light facts, and opens those that truly lie in these folders."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import folder_paths

from ...lora_core import FileMissing
from ...lora_core.files.light_metadata import NOTHING, LightFacts, read_light
from ...lora_core.files.sidecar import ENDING
from ..host_files.inside import check_inside
from ..host_files.lora_folders import FOLDER, lora_names

PICTURE_ENDINGS = tuple(
    f"{middle}.{ending}" for middle in (".preview", "") for ending in ("png", "jpg", "jpeg", "webp", "gif")
)
State = tuple[str, int, int, str, bool]  # path, time of change in ns, bytes, picture's name, whether notes are there


@dataclass(frozen=True, slots=True)
class _Directory:
    entries: Mapping[str, os.DirEntry[str]]  # by their names
    pictures: Mapping[str, str]  # stem -> name, of the files that can be a preview


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file as the picker shows it."""

    name: str  # relative to the loras folders, as the nodes take it
    bytes: int
    modified: int  # seconds since the epoch
    title: str
    base_model: str
    preview: bool  # whether a picture lies beside it
    notes: bool  # whether a sidecar lies beside it


class Library:
    """The list of files; what was read of a file is kept until its time or size changes."""

    def __init__(self) -> None:
        self._facts: dict[str, tuple[int, int, LightFacts]] = {}
        self._last: tuple[list[tuple[str, State]], bytes] = ([], b"")
        self._lock = threading.Lock()

    def listing(self) -> bytes:
        """JSON: {"files": [ListedFile, ...]}. The same bytes as before where nothing changed."""
        with self._lock:
            states = list(_states(lora_names(), [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]))
            if states != self._last[0] or not self._last[1]:
                files = [asdict(self._listed(name, state)) for name, state in states]
                self._last = (states, json.dumps({"files": files}, separators=(",", ":")).encode())
            return self._last[1]

    def _listed(self, name: str, state: State) -> ListedFile:
        path, modified, size, picture, has_sidecar = state
        known = self._facts.get(path)
        if known is None or known[:2] != (modified, size):
            known = (modified, size, read_light(Path(path)) if size else NOTHING)
            self._facts[path] = known
        facts = known[2]
        seconds = modified // 1_000_000_000
        return ListedFile(name, size, seconds, facts.title, facts.base_model, bool(picture), has_sidecar)


LIBRARY = Library()


def picture_beside(file: Path) -> Path | None:
    """The preview picture of a file: the same name with a picture's ending."""
    candidates = (file.with_name(file.stem + ending) for ending in PICTURE_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _states(names: Sequence[str], folders: Sequence[Path]) -> Iterator[tuple[str, State]]:
    """What tells whether an entry of the list is still right; a file that is a link out is listed without facts."""
    directories: dict[str, _Directory] = {}
    for name in names:
        inner, _, file = name.replace("\\", "/").rpartition("/")
        for folder in folders:
            directory = f"{folder}/{inner}" if inner else str(folder)
            found = directories.get(directory)
            if found is None:
                found = directories[directory] = _read_directory(Path(directory))
            entry = found.entries.get(file)
            if entry is not None:
                yield name, _state(entry, found)
                break


def _read_directory(directory: Path) -> _Directory:
    try:
        check_inside(directory)
        with os.scandir(directory) as scanned:
            entries = {entry.name: entry for entry in scanned}
    except (OSError, FileMissing):
        return _Directory({}, {})
    pictures = {
        name.removesuffix(ending): name
        for ending in reversed(PICTURE_ENDINGS)  # the first one counts
        for name in entries
        if name.endswith(ending)
    }
    return _Directory(entries, pictures)


def _state(entry: os.DirEntry[str], directory: _Directory) -> State:
    stem = entry.name.rpartition(".")[0]
    try:
        if entry.is_symlink():
            check_inside(Path(entry.path))
        status = entry.stat()
    except (OSError, FileMissing):
        return (entry.path, 0, 0, "", False)
    picture = directory.pictures.get(stem, "")
    return (entry.path, status.st_mtime_ns, status.st_size, picture, stem + ENDING in directory.entries)
