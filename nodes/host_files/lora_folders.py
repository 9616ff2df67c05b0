"""Finds adapter files by name in the host's loras folders, and nowhere else."""

import difflib
from pathlib import Path, PurePosixPath

import folder_paths

from ...lora_core import FileMissing
from ...lora_core.files.lora_file import FileIdentity, identify

FOLDER = "loras"


class _Index:
    """The listed names by their spelling with slashes, made once for a list."""

    def __init__(self) -> None:
        self._made: tuple[list[str], dict[str, str]] = ([], {})

    def of(self, names: list[str]) -> dict[str, str]:
        if self._made[0] != names:
            self._made = (list(names), {listed.replace("\\", "/"): listed for listed in names})
        return self._made[1]


_INDEX = _Index()


def lora_names() -> list[str]:
    """Every file in the loras folders, by its name relative to them."""
    return folder_paths.get_filename_list(FOLDER)


def find_lora(name: str) -> Path:
    """The file of a name as `lora_names` gives it; slashes of either kind, and the ending may be left out.

    Raises FileMissing for a name that is in no loras folder, with the most similar names.
    """
    wanted = name.replace("\\", "/")
    by_name = _INDEX.of(lora_names())
    listed = by_name.get(wanted) or by_name.get(f"{wanted}.safetensors") or _by_stem(wanted, by_name)
    if listed is None:
        refuse_outside(name, wanted)
    path = folder_paths.get_full_path(FOLDER, listed if listed is not None else wanted)
    if path is None:
        similar = difflib.get_close_matches(wanted, by_name, n=3, cutoff=0.5)
        hint = f"Similar names: {', '.join(similar)}." if similar else "Put it there, refresh the list, choose again."
        raise FileMissing(name, "there is no such file in the loras folders", hint)
    return Path(path)


def identify_lora(name: str) -> FileIdentity:
    """Path, time of change and size of a file: what the host compares to know whether a node must run again."""
    return identify(find_lora(name))


def first_folder() -> Path:
    """The loras folder that new files go to."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0])


def listed_name(path: Path) -> str:
    """A file's name as `lora_names` gives it."""
    for folder in folder_paths.get_folder_paths(FOLDER):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return path.name


def refuse_outside(name: str, wanted: str) -> None:
    """Raise FileMissing for a name, `wanted` with slashes, that leads out of the loras folders."""
    path = PurePosixPath(wanted)
    if path.is_absolute() or ".." in path.parts or ":" in wanted.split("/")[0] or "\0" in wanted:
        raise FileMissing(name, "only files in the loras folders can be used", "Give a name relative to them.")


def _by_stem(wanted: str, by_name: dict[str, str]) -> str | None:
    """The one file whose name without folder and ending is `wanted`, as prompt syntax names it."""
    found = [listed for path, listed in by_name.items() if PurePosixPath(path).stem == wanted]
    if len(found) > 1:
        raise FileMissing(
            wanted, f"the name fits {len(found)} files: {', '.join(sorted(found)[:5])}", "Add the folder."
        )
    return found[0] if found else None
