"""Names and places of files that are to be written: what can't be is refused before any work."""

import itertools
import re
import tempfile
from pathlib import Path

import folder_paths

from ...lora_core import FileMissing
from ...lora_core.errors import FileNotWritten
from .lora_folders import first_folder, refuse_outside

PEFT_FILE = "adapter_model.safetensors"  # beside its configuration, which PEFT looks for there
FORBIDDEN = '<>:"|?*'  # in names of files on Windows
RESERVED = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")  # there, with any ending
LONGEST = 200  # bytes of a whole name: file systems take 255 for each part, and endings and numbers come behind it


def check_new_name(name: str) -> None:
    """Raises FileNotWritten for a name that would leave the host's folders, or that some system's files can't have."""
    slashed = name.replace("\\", "/")
    try:
        refuse_outside(name, slashed)
    except FileMissing as error:
        raise FileNotWritten(name, error.reason, error.advice) from None
    advice = _why_not(slashed)
    if advice:
        raise FileNotWritten(name, "a file can't have this name", advice)


def _why_not(name: str) -> str:
    """What to change about a name with slashes; empty if nothing."""
    parts = name.split("/")
    if any(character in FORBIDDEN for character in name) or name.endswith("/"):
        return f"Leave out these characters: {' '.join(FORBIDDEN)}"
    if not name.isprintable():
        return "Leave out line breaks, tabs and other characters that can't be seen."
    if any(part != part.strip() or part.endswith(".") or part.startswith("-") or not part for part in parts):
        return "No folder and no file may begin with a space or '-', end with a space or '.', or be empty."
    reserved = [part for part in parts if RESERVED.fullmatch(part)]
    if reserved:
        return f"Windows keeps {reserved[0]} for itself: choose another name."
    if len(name.encode()) > LONGEST:
        return f"It has {len(name.encode())} bytes; use at most {LONGEST}."
    return ""


def check_target(name: str, folder: Path | None = None) -> None:
    """Raises FileNotWritten unless a file of this name can be made in a folder, by default the first loras folder.

    Nothing is left behind: the nearest folder that is there is written to for a moment.
    """
    check_new_name(name)
    wanted = ((folder or first_folder()) / name.replace("\\", "/")).parent
    there = next((path for path in (wanted, *wanted.parents) if path.exists()), wanted)
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"\0")
    except OSError as error:
        reason = "it is a file" if there.is_file() else error.strerror or str(error)
        raise FileNotWritten(
            name, f"nothing can be written to {there.name} ({reason})", "Choose another name or folder."
        ) from None


def free_path(name: str, ending: str) -> Path:
    """Where a new file of this name goes: the first loras folder, with a number behind the name if that is taken.

    Raises FileNotWritten, see check_new_name.
    """
    check_new_name(name)
    return _free(first_folder(), name.replace("\\", "/").removesuffix(ending or "/"), ending)


def output_path(name: str, folder_name: str, *, overwrite: bool) -> Path:
    """Where a new checkpoint goes: a folder of the host's output folder, which its loaders list.

    With a number behind the name where that is taken, but for `overwrite`. Raises FileNotWritten for a bad name.
    """
    check_new_name(name)
    stem = name.replace("\\", "/").removesuffix(".safetensors")
    return _free(Path(folder_paths.get_output_directory()) / folder_name, stem, ".safetensors", overwrite=overwrite)


def new_lora_path(name: str, dialect: str | None) -> Path:
    """Where a new adapter file of this name goes; in a dialect with a configuration beside it, in a folder of its own.

    Raises FileNotWritten, see check_new_name.
    """
    if dialect != "peft":
        return free_path(name, ".safetensors")
    folder = free_path(name, "")
    _make_folder(folder, name)
    return folder / PEFT_FILE


def _free(folder: Path, stem: str, ending: str, *, overwrite: bool = False) -> Path:
    candidates = (folder / f"{stem}{f'_{number}' if number > 1 else ''}{ending}" for number in itertools.count(1))
    try:
        path = next(path for path in candidates if overwrite or not path.exists())
    except OSError as error:
        raise FileNotWritten(stem, error.strerror or str(error)) from None
    _make_folder(path.parent, stem)
    return path


def _make_folder(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"its folder {folder.name} can't be made ({error.strerror or error})"
        raise FileNotWritten(name, reason, "Choose another name or folder.") from None
