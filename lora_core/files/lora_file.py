"""One adapter file on disk: its identity, its header, and its tensors read out of a memory map."""

import hashlib
import json
import mmap
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..errors import FileDamaged, FileMissing
from .safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES, Header, read_header
from .small_text import read_small_text

PEFT_CONFIG_NAME = "adapter_config.json"
CONFIG_AT_MOST = 4_000_000  # bytes of a configuration beside a file
HEAD_BYTES, TAIL_BYTES = 1024**2, 64 * 1024  # most bytes of a header, and those of an end, that tell a file


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one state of a file from another without reading all of it."""

    path: Path
    modified: int  # nanoseconds since the epoch
    size: int  # bytes
    edges: bytes = b""  # a digest of its header and its end: a file may be replaced by one of the same time and size


def identify(path: Path) -> FileIdentity:
    """The file's identity now. Raises FileMissing if it is not there."""
    try:
        status = path.stat()
    except OSError:
        raise FileMissing(path.name, "the file is not there", "Refresh the list of files and choose again.") from None
    return FileIdentity(path, status.st_mtime_ns, status.st_size, _edges(path))


def _edges(path: Path) -> bytes:
    """Empty for what can't be read; whoever reads it tells why."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            digest.update(start + file.read(min(int.from_bytes(start, "little"), HEAD_BYTES)))
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            digest.update(file.read(TAIL_BYTES))
    except OSError:
        return b""
    return digest.digest()


class Reader(Protocol):
    """Where tensors come from: a mapped file, memory, or, for a look without reading, a header alone."""

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key; on the meta device where only its shape is known."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoraFile:
    """An adapter file whose header has been read and whose tensors have not."""

    identity: FileIdentity
    header: Header
    peft_config: Mapping[str, Any] | None  # adapter_config.json beside the file, if there is one
    has_data: bool = True  # False for a bare list of keys
    has_shapes: bool = True  # False for a list of names alone

    @property
    def name(self) -> str:
        return self.identity.path.name

    @contextmanager
    def tensors(self) -> Generator[Reader]:
        """Memory-map the file while the block runs; what the reader returned stays valid after it."""
        path = self.identity.path
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if identify(path) != self.identity:
                    raise FileDamaged(self.name, "the file changed while it was being read", "Queue again.")
                yield TensorReader(mapped, self.header)
        except FileNotFoundError:
            raise FileMissing(self.name, "the file was deleted while it was being read") from None
        except OSError as error:
            raise FileMissing(self.name, f"the file can't be read ({error.strerror})") from None


PAGES_HELD = 16 * 1024**2  # bytes of the map that stay in memory while a file is read


class TensorReader:
    """Copies tensors out of a memory map and gives the map's pages back as it goes.

    Copies, because a mapped file that a retraining cuts short ends the whole process (SIGBUS) at the next touch.
    """

    def __init__(self, mapped: mmap.mmap, header: Header) -> None:
        self._mapped = mapped
        self._header = header
        self._held = 0  # bytes read since pages were given back

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key, in its own dtype and shape, owning its memory."""
        entry = self._header.entries[key]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if tensor.numel() == 0:
            return tensor
        target = tensor.reshape(-1).view(torch.uint8).numpy().data
        with memoryview(self._mapped) as view, view[entry.start : entry.stop] as source:
            target[:] = source
        self._held += entry.stop - entry.start
        if self._held > PAGES_HELD and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._mapped.madvise(mmap.MADV_DONTNEED)
            self._held = 0
        return tensor


def open_lora(path: Path, *, header_at_most: int = MAX_HEADER_BYTES) -> LoraFile:
    """Read an adapter file's header, of at most so many bytes, and the PEFT configuration beside it.

    Raises FileMissing, PickleRefused or FileDamaged (see safetensors_header.read_header).
    """
    identity = identify(path)
    return LoraFile(identity, read_header(path, at_most=header_at_most), _peft_config(path))


def _peft_config(path: Path) -> Mapping[str, Any] | None:
    beside = path.parent / PEFT_CONFIG_NAME
    if not beside.is_file() or not _belongs_to(path):
        return None
    try:
        config: object = json.loads(read_small_text(beside, CONFIG_AT_MOST, with_folder_of=path))
    except (OSError, ValueError, RecursionError) as error:
        raise FileDamaged(PEFT_CONFIG_NAME, f"the configuration beside {path.name} can't be read ({error})") from None
    if not isinstance(config, dict):
        raise FileDamaged(PEFT_CONFIG_NAME, f"the configuration beside {path.name} is no table")
    return cast("dict[str, Any]", config)


def _belongs_to(path: Path) -> bool:
    """PEFT names its file adapter_model; a renamed one is taken for it while it is alone in its folder."""
    return path.stem == "adapter_model" or len(list(path.parent.glob("*.safetensors"))) == 1
