"""Keeps what was encoded, by its content: in memory up to a limit, and, where a folder is given, in files."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import FileMissing, FileNotWritten, LoraError
from ...files.stored_values import NotStorable, byte_size, read_value, write_value

MEMORY_BYTES = 2 * 1024**3  # bytes of encoded pictures and captions kept for the next run
FORM = "1"  # of what is kept; another number makes everything anew
ENDING = ".safetensors"


def content_key(*parts: str) -> str:
    """A name for what follows from these parts alone: the sha256 of all of them."""
    digest = hashlib.sha256()
    for part in (FORM, *parts):
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


class MemoryCache:
    """The values used last, for as long as they fit into `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Values kept."""
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes of the tensors kept."""
        return self._bytes

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: str, value: Any) -> None:
        """Keep a value; what was used longest ago goes when there is no room. A value above the limit is not kept."""
        size = byte_size(value)
        if size > self._limit or key in self._kept:
            return
        self._kept[key] = (value, size)
        self._bytes += size
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._bytes = 0


class EncodedCache:
    """What one run reads of and adds to the caches; it counts, and says what went wrong without stopping the run."""

    def __init__(self, memory: MemoryCache, folder: Path | None = None) -> None:
        self._memory = memory
        self._folder = folder
        self._may_write = True
        self._damaged = 0
        self._unwritten = ""
        self.found = 0
        self.made = 0

    def get(self, key: str | None, make: Callable[[], Any]) -> Any:
        """The value of a key: from memory, the folder, or made now and kept. Without a key it is made each time."""
        value = None if key is None else self._kept(key)
        if value is not None:
            self.found += 1
            return value
        value = make()
        self.made += 1
        if key is not None:
            self._memory.put(key, value)
            self._write(key, value)
        return value

    def notes(self) -> Sequence[str]:
        """What a person should know of the cache's files."""
        notes: list[str] = []
        if self._damaged:
            notes.append(f"{self._damaged} damaged files of the cache were made anew")
        if self._unwritten:
            notes.append(f"not everything is kept on disk for the next start: {self._unwritten}")
        return notes

    def _kept(self, key: str) -> Any:
        value = self._memory.get(key)
        if value is None and self._folder is not None:
            value = self._read(self._folder / f"{key}{ENDING}")
            if value is not None:
                self._memory.put(key, value)
        return value

    def _read(self, path: Path) -> Any:
        try:
            return read_value(path)
        except FileMissing:
            return None
        except LoraError:
            self._damaged += 1
            return None

    def _write(self, key: str, value: Any) -> None:
        if self._folder is None or not self._may_write:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_value(self._folder / f"{key}{ENDING}", value)
        except NotStorable as error:
            self._unwritten = str(error)
        except FileNotWritten as error:
            self._unwritten, self._may_write = error.reason, False
        except OSError as error:
            self._unwritten, self._may_write = f"the folder can't be made ({error.strerror or error})", False
