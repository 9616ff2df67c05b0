"""Loads adapter files for the nodes: from the loras folders, through a cache that sees a changed file."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...lora_core import LoadedLora, LoraFile, load_lora, open_lora
from ...lora_core.files.lora_file import FileIdentity, identify
from .lora_folders import find_lora

if TYPE_CHECKING:
    from ..comfy_bridge import ModelNames

LOG = logging.getLogger(__name__)
CACHE_BYTES = 2 * 1024**3  # bytes of adapter tensors kept for the next run


class LoraCache:
    """The files loaded last, for as long as they fit in `limit` bytes and are unchanged on disk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[FileIdentity, int], LoadedLora] = OrderedDict()

    def get(self, name: str, names: "ModelNames") -> LoadedLora:
        """The file of this name for this model; read again only when it changed. Raises LoraError."""
        path = find_lora(name)
        return self._get(identify(path), names, lambda: open_lora(path))

    def get_opened(self, file: LoraFile, names: "ModelNames") -> LoadedLora:
        """An opened file, or an adapter in memory, for this model. Raises LoraError."""
        return self._get(file.identity, names, lambda: file)

    def loaded(self, path: Path) -> LoadedLora | None:
        """The file at a path as it was last loaded for any model; None if it is not kept."""
        return next(
            (lora for (identity, _), lora in reversed(self._kept.copy().items()) if identity.path == path), None
        )

    def _get(self, identity: FileIdentity, names: "ModelNames", opened: Callable[[], LoraFile]) -> LoadedLora:
        key = (identity, names.fingerprint)
        lora = self._kept.get(key)
        if lora is None:
            lora = load_lora(opened(), names.layout, names.table)
            self._forget_older(identity)
            self._kept[key] = lora
            LOG.info("LoRA Loom: %s", lora.report.headline())
        self._kept.move_to_end(key)
        self._shrink()
        return lora

    def __len__(self) -> int:
        """Files kept."""
        return len(self._kept)

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()

    def _forget_older(self, identity: FileIdentity) -> None:
        for key in [key for key in self._kept if key[0].path == identity.path and key[0] != identity]:
            del self._kept[key]

    def _shrink(self) -> None:
        while len(self._kept) > 1 and sum(lora.size for lora in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)


CACHE = LoraCache(CACHE_BYTES)
