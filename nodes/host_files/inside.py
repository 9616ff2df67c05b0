"""Holds that a file lies inside the host's folders."""

import os
from pathlib import Path

import folder_paths

from ...lora_core import FileMissing
from .lora_folders import FOLDER, find_lora


def find_inside(name: str) -> Path:
    """The file of a name, if it lies in a loras folder also when every link on the way is followed.

    Raises FileMissing, also for a link that leaves the folders.
    """
    path = find_lora(name)
    check_inside(path)
    return path


def check_inside(path: Path) -> None:
    """Raises FileMissing for a path that leaves the loras folders once its links are followed."""
    roots = [Path(os.path.realpath(folder)) for folder in folder_paths.get_folder_paths(FOLDER)]
    if not any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots):
        advice = "Add the folder that it points to in extra_model_paths.yaml."
        raise FileMissing(path.name, "it is a link that leaves the loras folders, and is not followed here", advice)
