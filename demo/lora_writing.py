"""Writes the demo's branches as LoRA files, in the spelling of kohya's scripts or of diffusers with PEFT."""

import json
from collections.abc import Mapping
from pathlib import Path

import comfy.utils
import torch
from lora_branches import TEXT_TARGETS, UNET_TARGETS, Branch, Size
from safetensors.torch import save_file
from torch import Tensor

BASE_NAME = "lora_loom_demo"


def write_kohya(file: Path, unet: Mapping[str, Branch], names: Mapping[str, str], size: Size, trigger: str) -> None:
    """`names`: path in the UNet -> diffusers' name of the layer."""
    tensors: dict[str, Tensor] = {}
    for path, branch in unet.items():
        layer = "lora_unet_" + names[path].replace(".", "_")
        tensors[f"{layer}.lora_down.weight"] = branch.down
        tensors[f"{layer}.lora_up.weight"] = branch.up
        tensors[f"{layer}.alpha"] = torch.tensor(size.alpha)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(size.rank),
        "ss_network_alpha": str(size.alpha),
        "ss_base_model_version": BASE_NAME,
        "ss_output_name": file.stem,
        "ss_tag_frequency": json.dumps({"demo": {trigger: 1}}),
    }
    _write(file, tensors, metadata)


def write_peft(
    file: Path, unet: Mapping[str, Branch], names: Mapping[str, str], unet_size: Size,
    text: Mapping[str, Branch], text_size: Size,
) -> None:  # fmt: skip
    """The text encoder's paths are diffusers' names already. Alpha is only in the metadata, as diffusers has it."""
    named = {f"unet.{names[path]}": branch for path, branch in unet.items()}
    named |= {f"text_encoder.{path}": branch for path, branch in text.items()}
    tensors: dict[str, Tensor] = {}
    for layer, branch in named.items():
        tensors[f"{layer}.lora_A.weight"] = branch.down
        tensors[f"{layer}.lora_B.weight"] = branch.up
    settings = _peft_settings("unet", unet_size, UNET_TARGETS) | _peft_settings("text_encoder", text_size, TEXT_TARGETS)
    _write(file, tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True)})


def diffusers_names(unet_config: dict[str, object]) -> dict[str, str]:
    """Path in the UNet -> diffusers' name, both without `.weight`."""
    table = comfy.utils.unet_to_diffusers(unet_config)
    pairs = ((path, name) for name, path in table.items() if path.endswith(".weight"))
    return {path.removesuffix(".weight"): name.removesuffix(".weight") for path, name in pairs}


def _peft_settings(part: str, size: Size, targets: tuple[str, ...]) -> dict[str, object]:
    settings = {
        "peft_type": "LORA",
        "r": size.rank,
        "lora_alpha": size.alpha,
        "target_modules": list(targets),
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "lora_dropout": 0.0,
    }
    return {f"{part}.{name}": value for name, value in settings.items()}


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().half().contiguous() for key, tensor in tensors.items()}, file, metadata=metadata)
