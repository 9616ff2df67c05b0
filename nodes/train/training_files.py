"""The files of trainings: states that can be gone on from, of which the newest are kept, and finished results."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ...lora_core import open_lora
from ...lora_core.errors import FileError
from ...lora_core.files.lora_file import LoraFile
from ...lora_core.training.identity import SHORT
from ...lora_core.training.result_mark import Curves, curves_of
from ..host_files.lora_folders import first_folder

STATE_FOLDER = "lora_loom_training"  # inside the host's output folder: saved states; inside its temp folder: previews
STATE = ".checkpoint.safetensors"  # ending of their names
OWN_CHECKPOINT = re.compile(rf".+\.[0-9a-f]{{{SHORT}}}{re.escape(STATE)}")
CHECKPOINTS_KEPT = 8  # the newest, with that of the training under way


def state_path(name: str, identity: str) -> Path:
    """Where the state of a training is kept until it ends: one file for each name and identity, see Identity.short."""
    _state_folder().mkdir(parents=True, exist_ok=True)
    return _state_folder() / f"{flat(name)}.{identity}{STATE}"


def newest_state(name: str) -> int | None:
    """When the newest state of a training of this name was written, in ns; None if none is kept."""
    found = _state_folder().glob(f"{glob.escape(flat(name))}.*{STATE}")
    return max((path.stat().st_mtime_ns for path in found), default=None)


def delete_old_states(own: Path) -> Sequence[str]:
    """Delete all but the newest CHECKPOINTS_KEPT states, one of which is `own`, there or not: the names of the others.

    Only files that are named as this pack names them are touched. One that can't be deleted stays, and is not named.
    """
    states = [path for path in _state_folder().glob(f"*{STATE}") if OWN_CHECKPOINT.fullmatch(path.name)]
    others = [path for path in states if path != own and path.is_file() and not path.is_symlink()]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    deleted: list[str] = []
    for path in others[CHECKPOINTS_KEPT - 1 :]:
        try:
            path.unlink()
        except OSError:
            continue
        deleted.append(path.name)
    return deleted


def finished_file(name: str, key: str) -> tuple[LoraFile, Curves] | None:
    """The result of a training that came to its end, in the loras folder under its name or with a number behind it.

    Args:
        name: as it was asked for.
        key: of the training, see Trainer.result_key.
    """
    stem = name.replace("\\", "/").removesuffix(".safetensors")
    folder, last = (first_folder() / stem).parent, Path(stem).name
    named = re.compile(rf"{re.escape(last)}(?:_\d+)?\.safetensors")
    for path in sorted(folder.glob(f"{glob.escape(last)}*.safetensors")):
        if not named.fullmatch(path.name):
            continue
        try:
            file = open_lora(path)
        except FileError:
            continue  # whatever it is, it is no result of ours
        curves = curves_of(file, key)
        if curves is not None:
            return file, curves
    return None


def flat(name: str) -> str:
    """A name without folders."""
    return name.replace("/", "_").replace("\\", "_")


def _state_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / STATE_FOLDER
