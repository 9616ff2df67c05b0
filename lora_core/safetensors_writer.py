"""Writes a safetensors file whole or not at all: a crash or a full disk leaves what was there before."""

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .errors import FileNotWritten


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a file, replacing one of the same name.

    Raises FileNotWritten; the file of that name is then what it was before.
    """
    ready = {key: tensor.contiguous() for key, tensor in _apart(tensors).items()}
    write_whole(path, lambda beside: save_file(ready, beside, metadata=dict(metadata) or None))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in the place of `path` in one step.

    Raises FileNotWritten for every failure of the file system.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise FileNotWritten(path.name, f"it could not be written ({error.strerror or error})") from None
    except Exception as error:  # safetensors reports a full disk with an error of its own
        if type(error).__name__ != "SafetensorError":
            raise
        raise FileNotWritten(path.name, f"it could not be written ({error})") from None
    finally:
        beside.unlink(missing_ok=True)


def _apart(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors, none of which shares its memory with another one: the format has no place for that."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if pointer in seen and tensor.numel() else tensor
        seen.add(pointer)
    return apart
