"""Writes a safetensors file whole or not at all: a crash or a full disk leaves what was there before.

The same tensors and metadata give the same bytes in every run, which the safetensors library does not promise.
"""

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .errors import FileNotWritten
from .safetensors_header import DTYPES, LENGTH_BYTES

NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes; the header is filled up with spaces to a multiple of it
Plan = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # key -> dtype and shape


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a file, replacing one of the same name.

    Raises FileNotWritten; the file of that name is then what it was before.
    """
    plan = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    write_streamed(path, plan, metadata, lambda key: tensors[key])


def write_streamed(path: Path, plan: Plan, metadata: Mapping[str, str], make: Callable[[str], Tensor]) -> None:
    """Write tensors one after another, so that no more than one has to be in memory.

    Args:
        path: the file, replaced in one step when it is whole.
        plan: every tensor of it.
        metadata: of its header.
        make: gives a tensor, in the dtype and shape of the plan; asked for each key once.

    Raises FileNotWritten; whatever `make` raises also leaves the old file.
    """
    order = sorted(plan, key=lambda key: (-plan[key][0].itemsize, key))  # as the safetensors library does
    header = _header({key: plan[key] for key in order}, metadata)

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            file.write(header)
            file.writelines(_bytes_of(key, make(key), plan) for key in order)

    write_whole(path, write)


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
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


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
    finally:
        beside.unlink(missing_ok=True)
