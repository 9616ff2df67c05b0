"""A checkpoint in NVFP4: its layers are as wide as their numbers, not as their bytes."""

from pathlib import Path

import torch
from lora_pack.lora_core.loading.checkpoint import Checkpoint
from lora_pack.lora_core.loading.inspection import read_layout
from safetensors.torch import save_file


def test_a_packed_weight_has_the_shape_of_its_numbers(tmp_path: Path) -> None:
    layer = "model.diffusion_model.blocks.0.attn.to_q"
    tensors = {
        f"{layer}.weight": torch.zeros(128, 32, dtype=torch.uint8),
        f"{layer}.weight_scale": torch.zeros(128, 4, dtype=torch.float8_e4m3fn),
        f"{layer}.weight_scale_2": torch.tensor(1.0),
        f"{layer}.comfy_quant": torch.zeros(19, dtype=torch.uint8),
        f"{layer}.bias": torch.zeros(128),
        "model.diffusion_model.blocks.0.other.weight": torch.zeros(6, 4, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "base.safetensors")
    for layout in (read_layout(tmp_path / "base.safetensors"), Checkpoint.open(tmp_path / "base.safetensors").layout()):
        assert {path: target.shape for path, target in layout.targets.items()} == {
            layer: (128, 64),
            "model.diffusion_model.blocks.0.other": (6, 4),
        }
