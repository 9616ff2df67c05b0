"""Finds checkpoints and diffusion models by name in the host's folders, and names new ones in its output folder."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ...lora_core import FileMissing, LoraError
from ...lora_core.files.lora_file import identify
from ...lora_core.loading.checkpoint import Checkpoint

KINDS = ("checkpoints", "diffusion_models")  # folders of the host; a name here begins with one of them


def checkpoint_names() -> list[str]:
    """Every safetensors file in the host's folders for models, such as "checkpoints/sd15.safetensors"."""
    listed = [(kind, name.replace("\\", "/")) for kind in KINDS for name in folder_paths.get_filename_list(kind)]
    return [f"{kind}/{name}" for kind, name in listed if name.endswith(".safetensors")]


def checkpoint_input(name: str, tooltip: str) -> io.Combo.Input:
    """A file of a whole model or of a denoiser alone."""
    return io.Combo.Input(name, options=checkpoint_names(), tooltip=tooltip)


def find_checkpoint(name: str) -> Path:
    """The file of a name as `checkpoint_names` gives it. Raises FileMissing."""
    kind, _, inside = name.partition("/")
    listed = (
        {given.replace("\\", "/"): given for given in folder_paths.get_filename_list(kind)} if kind in KINDS else {}
    )
    path = folder_paths.get_full_path(kind, listed[inside]) if inside in listed else None
    if path is None:
        reason = "there is no such file in the folders checkpoints and diffusion_models"
        raise FileMissing(name, reason, "Refresh the list and choose again.")
    return Path(path)


def open_checkpoint(name: str) -> Checkpoint:
    """The header of a checkpoint. Raises FileError."""
    return Checkpoint.open(find_checkpoint(name))


def check_checkpoint(name: str | None) -> bool | str:
    """True, or in one line why a file can't be used. A linked name (None) is checked when the node runs."""
    try:
        return True if name is None else bool(open_checkpoint(name))
    except LoraError as error:
        return str(error)


def identify_checkpoint(name: str | None) -> str:
    """What changes when the file does."""
    return "" if name is None else str(identify(find_checkpoint(name)))
