"""Writes a safetensors file whole or not at all: a crash or a full disk leaves what was there before.

The same tensors and metadata give the same bytes in every run, which the safetensors library does not promise.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileNotWritten
from .safetensors_header import DTYPES, LENGTH_BYTES

NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
ASIDE = ".old"  # ends the name of a file that is being replaced together with others
ALIGNMENT = 8  # bytes; the header is filled up with spaces to a multiple of it
Plan = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # key -> dtype and shape


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a file, replacing one of the same name.

    Raises FileNotWritten; the file of that name is then what it was before.
    """
    write_whole(path, lambda beside: fill_safetensors(beside, tensors, metadata))


def fill_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata straight to a file. Raises OSError and leaves half a file, see write_whole."""
    plan = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    _fill(path, plan, metadata, lambda key: tensors[key])


def write_streamed(path: Path, plan: Plan, metadata: Mapping[str, str], make: Callable[[str], Tensor]) -> None:
    """Write tensors one after another, so that no more than one has to be in memory.

    Args:
        path: the file, replaced in one step when it is whole.
        plan: every tensor of it.
        metadata: of its header.
        make: gives a tensor, in the dtype and shape of the plan; asked for each key once.

    Raises FileNotWritten; whatever `make` raises also leaves the old file.
    """
    write_whole(path, lambda beside: _fill(beside, plan, metadata, make))


def _fill(path: Path, plan: Plan, metadata: Mapping[str, str], make: Callable[[str], Tensor]) -> None:
    order = sorted(plan, key=lambda key: (-plan[key][0].itemsize, key))  # as the safetensors library does
    header = _header({key: plan[key] for key in order}, metadata)
    with path.open("wb") as file:
        file.write(header)
        file.writelines(_bytes_of(key, make(key), plan) for key in order)


def _header(plan: Plan, metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for key, (dtype, shape) in plan.items():
        stop = start + dtype.itemsize * torch.Size(shape).numel()
        fields[key] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _bytes_of(key: str, tensor: Tensor, plan: Plan) -> memoryview:
    dtype, shape = plan[key]
    if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
        raise ValueError(f"{key} was to be {dtype} {list(shape)}, but is {tensor.dtype} {list(tensor.shape)}")
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in the place of `path` in one step.

    Raises FileNotWritten for every failure of the file system.
    """
    write_together({path: write})


def write_together(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files that are only right together: all of them are new afterwards, or, after any failure, none.

    They are filled beside their places first. The old ones are then set aside, the first of them, without which nobody
    reads the others, before all others, and it comes into its place last: a process that is killed in between leaves
    the first one missing under its name (its content is beside, see ASIDE), never beside files of another make.

    Raises FileNotWritten for every failure of the file system.
    """
    mark = uuid.uuid4().hex[:8]
    parts = {path: path.with_name(f".{path.name}.{mark}.part") for path in files}
    aside: dict[Path, Path] = {}
    placed: list[Path] = []
    working_on = next(iter(files))
    try:
        for working_on, fill in files.items():
            fill(parts[working_on])
            if working_on.exists():
                shutil.copymode(working_on, parts[working_on])  # who may read it stays as it was
            with parts[working_on].open("rb+") as file:
                os.fsync(file.fileno())
        if len(files) > 1:  # one alone is replaced in one step
            for working_on in files:
                if working_on.exists():
                    aside[working_on] = working_on.with_name(f".{working_on.name}.{mark}{ASIDE}")
                    working_on.replace(aside[working_on])
        for working_on in reversed(list(files)):
            parts[working_on].replace(working_on)
            placed.append(working_on)
    except OSError as error:
        reason = f"it could not be written ({error.strerror or error})"
        raise FileNotWritten(working_on.name, reason) from None
    finally:
        is_done = len(placed) == len(files)
        for path in () if is_done else placed:
            path.unlink(missing_ok=True)
        for path in reversed(list(aside)):
            if is_done:
                aside[path].unlink(missing_ok=True)
            elif aside[path].exists():
                aside[path].replace(path)
        for part in parts.values():
            part.unlink(missing_ok=True)
