"""What an adapter file holds, whether it is written yet or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .lora_file import PEFT_CONFIG_NAME
from .safetensors_writer import fill_safetensors, write_safetensors, write_together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterContent:
    """The tensors of a file, the metadata of its header, and the configuration beside it if its dialect has one."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    peft_config: Mapping[str, Any] | None = None  # what adapter_config.json beside the file has to say

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def write(self, path: Path) -> None:
        """Write the file, and the configuration beside it if there is one: both or neither. Raises FileNotWritten."""
        if self.peft_config is None:
            write_safetensors(path, self.tensors, self.metadata)
            return
        text = json.dumps(self.peft_config, indent=2, sort_keys=True)
        write_together(
            {
                path: lambda beside: fill_safetensors(beside, self.tensors, self.metadata),
                path.parent / PEFT_CONFIG_NAME: lambda beside: beside.write_text(text, encoding="utf-8"),
            }
        )

    def line(self) -> str:
        """How much it is, for a person."""
        return f"{len(self.tensors)} tensors, {self.size / 1024**2:.1f} MiB."
