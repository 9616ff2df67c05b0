"""Reads and checks the header of a safetensors file: names, dtypes, shapes, byte ranges, metadata; no data."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import FileDamaged, FileMissing, HeaderTooLong, PickleRefused

MAX_HEADER_BYTES = 100_000_000  # bytes; the limit that the safetensors library sets too
MAX_NUMBERS = 1 << 56  # in one tensor; torch counts the bytes of 8 times as many in 63 bits
LENGTH_BYTES = 8  # bytes of the little-endian header length that opens the file
HEADER_OPENS = b"{"  # a header of 640 bytes begins like a pickle, so what follows the length decides

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLE_ENDINGS = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl"})


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of the file: its dtype, its shape, and where its bytes lie."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    stop: int  # bytes from the start of the file


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself before its data."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path, *, at_most: int = MAX_HEADER_BYTES) -> Header:
    """Read the header of a safetensors file, and nothing behind it.

    Args:
        path: the file. Its ending does not matter; its first bytes do.
        at_most: bytes of a header that are read; whoever only shows a file reads less than who applies it.

    Raises:
        FileMissing: no such file.
        PickleRefused: the file is a pickle (also one that is named .safetensors).
        FileDamaged: empty, cut off, or not safetensors. The format is the one of safetensors 0.8.
    """
    name = path.name
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES + len(HEADER_OPENS))
            _check_start(name, start, path.suffix)
            header_bytes = int.from_bytes(start[:LENGTH_BYTES], "little")
            _check_length(name, header_bytes, file_bytes, at_most)
            file.seek(LENGTH_BYTES)
            text = file.read(header_bytes)
    except FileNotFoundError:
        raise FileMissing(name, "the file is not there", "Refresh the list of files and choose again.") from None
    except OSError as error:
        raise FileMissing(name, f"the file can't be opened ({error.strerror})") from None
    return _parse(name, text, LENGTH_BYTES + header_bytes, file_bytes)


def _check_start(name: str, start: bytes, ending: str) -> None:
    if not start:
        raise FileDamaged(name, "the file is empty", "Download or train it again.")
    is_pickle = start.startswith(PICKLE_STARTS) and not start.endswith(HEADER_OPENS)
    if is_pickle or ending.lower() in PICKLE_ENDINGS:
        raise PickleRefused(
            name,
            "the file is a pickle (.pt, .ckpt, .bin), which can run code when it is opened, so it was not opened",
            "Get the safetensors version of this LoRA.",
        )
    if len(start) < LENGTH_BYTES:
        raise FileDamaged(name, f"the file has only {len(start)} bytes", "Download or train it again.")


def _check_length(name: str, header_bytes: int, file_bytes: int, at_most: int) -> None:
    if header_bytes > MAX_HEADER_BYTES:
        raise FileDamaged(name, "this is no safetensors file (its first 8 bytes give no sensible header length)")
    if LENGTH_BYTES + header_bytes > file_bytes:
        raise FileDamaged(
            name,
            f"the file is cut off: it has {file_bytes} bytes, its header alone needs {LENGTH_BYTES + header_bytes}",
            "Download or copy it again.",
        )
    if header_bytes > at_most:
        raise HeaderTooLong(name, f"its header has {header_bytes} bytes, of which at most {at_most} are read here")


def _parse(name: str, text: bytes, data_start: int, file_bytes: int) -> Header:
    try:
        fields: object = json.loads(text, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise FileDamaged(name, f"its header can't be read ({str(error)[:80]})") from None
    if not isinstance(fields, dict):
        raise FileDamaged(name, "its header is no table of tensors")
    table = cast("dict[str, Any]", fields)
    metadata: Any = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise FileDamaged(name, "its metadata is no table")
    texts = cast("dict[str, Any]", metadata)
    if others := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise FileDamaged(name, f"its metadata '{others[0][:80]}' is no text")
    entries = {key: _entry(name, key, fields, data_start) for key, fields in table.items()}
    _check_tiling(name, entries, data_start, file_bytes)
    return Header(entries, texts)


def _check_tiling(name: str, entries: Mapping[str, TensorEntry], data_start: int, file_bytes: int) -> None:
    """Tensors lie one behind the other, without holes, up to the end of the file, as safetensors itself demands."""
    end = data_start
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            what = "shares bytes with another" if entry.start < end else "has unused bytes before it"
            raise FileDamaged(name, f"its tensor '{key[:80]}' {what}", "Save it again with the program that made it.")
        end = entry.stop
    if end > file_bytes:
        reason = f"the file is cut off: it has {file_bytes} bytes, its tensors need {end}"
        raise FileDamaged(name, reason, "Download or copy it again.")
    if end < file_bytes:
        reason = f"there are {file_bytes - end} bytes behind its tensors, which belong to nothing"
        raise FileDamaged(name, reason, "Download or copy it again.")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def is_shape(sides: tuple[int, ...]) -> bool:
    """Whether a tensor can have these sides at all, a side of 0 among them or not."""
    return min(sides, default=0) >= 0 and math.prod(side or 1 for side in sides) <= MAX_NUMBERS


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _entry(name: str, key: str, fields: Any, data_start: int) -> TensorEntry:
    try:
        dtype = DTYPES[fields["dtype"]]
        shape = tuple(_whole(side) for side in fields["shape"])
        first, last = (_whole(offset) for offset in fields["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise FileDamaged(name, f"its header describes the tensor '{key[:80]}' in a way that can't be read") from None
    if not is_shape(shape) or first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise FileDamaged(name, f"its header gives the tensor '{key[:80]}' a size that does not fit its shape")
    return TensorEntry(dtype, shape, data_start + first, data_start + last)
