"""An adapter that is in memory and in no file, as training and merging make it; used wherever a file is."""

import itertools
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .adapter_content import AdapterContent
from .lora_file import FileIdentity, LoraFile, Reader
from .safetensors_header import Header, TensorEntry

NOTHING = AdapterContent(tensors={}, metadata={})
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class LoraInMemory(LoraFile):
    """A LoraFile whose tensors are at hand."""

    content: AdapterContent = NOTHING

    @contextmanager
    def tensors(self) -> Generator[Reader]:
        """See LoraFile.tensors; the reader gives the very tensors, which nobody may change."""
        yield _Held(self.content.tensors)


class _Held:
    def __init__(self, held: Mapping[str, Tensor]) -> None:
        self._held = held

    def tensor(self, key: str) -> Tensor:
        """The tensor of a key, detached."""
        return self._held[key].detach()


def lora_in_memory(name: str, content: AdapterContent) -> LoraInMemory:
    """The adapter that a file of these tensors would be.

    Args:
        name: for reports and errors; two adapters of one name are told apart all the same.
        content: of the file, in any dialect.
    """
    entries: dict[str, TensorEntry] = {}
    start = 0
    for key, tensor in content.tensors.items():
        stop = start + tensor.numel() * tensor.element_size()
        entries[key] = TensorEntry(tensor.dtype, tuple(tensor.shape), start, stop)
        start = stop
    identity = FileIdentity(Path(name), -next(_NUMBERS), start)
    return LoraInMemory(identity, Header(entries, dict(content.metadata)), content.peft_config, content=content)
