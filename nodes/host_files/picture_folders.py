"""Finds folders of pictures in the host's input folder, and nowhere else."""

import os
import re
from pathlib import Path, PurePosixPath

import folder_paths

from ...lora_core import FileMissing
from ...lora_core.training.dataset.folder import PICTURE_ENDINGS, REPEAT_FOLDER

DEEPEST = 3  # folders below the input folder that are listed
CACHE_FOLDER = "lora_loom_cache"  # in the output folder


def picture_folder_names() -> list[str]:
    """Every folder below the input folder that pictures lie in, by its name relative to it."""
    root = Path(folder_paths.get_input_directory())
    return sorted(path.relative_to(root).as_posix() for path in _below(root, DEEPEST) if _holds_pictures(path))


def find_picture_folder(name: str) -> Path:
    """The folder of a name as `picture_folder_names` gives it; slashes of either kind.

    Raises FileMissing for a name that leads out of the input folder, or to no folder.
    """
    wanted = PurePosixPath(name.replace("\\", "/"))
    outside = wanted.is_absolute() or ".." in wanted.parts or re.match("[A-Za-z]:", name) or "\0" in name
    if outside or not wanted.parts:
        advice = "Put the pictures into a folder there and give its name."
        raise FileMissing(name or "(no folder)", "only folders in ComfyUI's input folder can be used", advice)
    folder = Path(folder_paths.get_input_directory()) / wanted
    if not folder.is_dir():
        advice = "Make it, put the pictures in, refresh the list and choose it."
        raise FileMissing(name, "there is no such folder in ComfyUI's input folder", advice)
    return folder


def cache_folder() -> Path:
    """Where encoded pictures and captions are kept; it may be deleted at any time."""
    return Path(folder_paths.get_output_directory()) / CACHE_FOLDER


def _below(folder: Path, depth: int) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return folders + [path for each in folders if depth > 1 for path in _below(each, depth - 1)]


def _holds_pictures(folder: Path) -> bool:
    """Whether pictures lie in it or in kohya's folders of it."""
    try:
        with os.scandir(folder) as entries:
            return any(map(_is_picture_or_holds_some, entries))
    except OSError:
        return False


def _is_picture_or_holds_some(entry: "os.DirEntry[str]") -> bool:
    if entry.is_dir():
        return REPEAT_FOLDER.fullmatch(entry.name) is not None and _holds_pictures(Path(entry.path))
    return Path(entry.name).suffix.lower() in PICTURE_ENDINGS
