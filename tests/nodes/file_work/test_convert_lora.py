"""Convert LoRA on the real host: the new file does what the old one did, and nothing is ever overwritten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import FileNotWritten, NotConvertible
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.file_work.convert_lora import ConvertLora
from safetensors.torch import save_file
from torch import Tensor


def _convert(name: str, to: str, filename: str = "", model: Any = None) -> tuple[str, str]:
    return ConvertLora.execute(name, to, filename, model).args


@pytest.mark.parametrize("to", ["kohya", "comfy", "diffusers", "peft"])
def test_the_new_file_does_what_the_old_one_did(
    model: Any, run: Callable[[Any], Tensor], style: str, loras_dir: Path, to: str
) -> None:
    name, report = _convert(style, to, f"sub/mine_{to}", model)
    assert (loras_dir / name).is_file() and name.startswith("sub/mine_")
    assert "layers in the names of" in report
    old, new = (run(ApplyLora.execute(model, file, 0.8, 0.8, "error").args[0]) for file in (style, name))
    assert torch.allclose(old, new, atol=1e-5)
    assert not torch.allclose(old, run(model), atol=1e-2)


def test_a_name_that_is_taken_gets_a_number(model: Any, style: str, loras_dir: Path) -> None:
    first, second = (_convert(style, "comfy", "", model)[0] for _ in range(2))
    assert (first, second) == ("style_comfy.safetensors", "style_comfy_2.safetensors")
    assert (loras_dir / first).read_bytes() == (loras_dir / second).read_bytes()


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "C:/outside", "a/../../b", "what?", "a/"])
def test_a_name_outside_of_the_loras_folders_is_refused(model: Any, style: str, name: str) -> None:
    with pytest.raises(FileNotWritten):
        _convert(style, "comfy", name, model)


def test_a_file_that_can_not_be_said_in_the_dialect_writes_nothing(model: Any, loras_dir: Path) -> None:
    layer = "lora_unet_input_blocks_1_1_proj_in"
    save_file({f"{layer}.lokr_w1": torch.ones(4, 4), f"{layer}.lokr_w2": torch.ones(8, 8)}, loras_dir / "k.safetensors")
    before = sorted(loras_dir.rglob("*"))
    with pytest.raises(NotConvertible, match="lokr"):
        _convert("k.safetensors", "diffusers", "", model)
    assert sorted(loras_dir.rglob("*")) == before
