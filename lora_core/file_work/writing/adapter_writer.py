"""Writes an adapter file and the configuration beside it, both or neither; tells before any work where it can not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import FileNotWritten
from ...files.lora_file import PEFT_CONFIG_NAME
from ...files.safetensors_writer import fill_safetensors, write_safetensors, write_together


def check_out(path: Path, *, replace: bool, configured: bool = False) -> None:
    """Raise FileNotWritten where a file can't or should not be written, before any work is done."""
    if not path.parent.is_dir():
        raise FileNotWritten(path.name, f"its folder {path.parent} is not there")
    if path.is_dir():
        raise FileNotWritten(path.name, "it is a folder")
    beside = [path.parent / PEFT_CONFIG_NAME] if configured else []
    there = [one.name for one in (path, *beside) if one.exists()]
    if there and not replace:
        raise FileNotWritten(path.name, f"{' and '.join(there)} is there already", "Give --force to replace it.")


def write_adapter(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], peft_config: Mapping[str, Any] | None
) -> None:
    """Write an adapter file, and the configuration beside it if its dialect has one: both or neither.

    Raises FileNotWritten.
    """
    if peft_config is None:
        write_safetensors(path, tensors, metadata)
        return
    text = json.dumps(peft_config, indent=2, sort_keys=True)
    write_together(
        {
            path: lambda beside: fill_safetensors(beside, tensors, metadata),
            path.parent / PEFT_CONFIG_NAME: lambda beside: beside.write_text(text, encoding="utf-8"),
        }
    )
