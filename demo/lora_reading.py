"""Reads the demo's two LoRA files into full deltas for the host's merge: apart from the pack, to measure without it."""

import json
from dataclasses import dataclass
from pathlib import Path

import comfy.utils
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor

KOHYA_UNET, KOHYA_TEXT = "lora_unet_", "lora_te_"
PEFT_UNET, PEFT_TEXT = "unet.", "text_encoder."
HOST_UNET, HOST_TEXT = "diffusion_model.", "clip_l.transformer."

Patches = dict[str, tuple[str, tuple[Tensor]]]


@dataclass(frozen=True)
class HostPatches:
    unet: Patches
    text_encoder: Patches


def host_patches(file: Path, model: ModelPatcher) -> HostPatches:
    """delta = alpha / rank * up @ down for every layer in the file. KeyError where a name fits no layer."""
    with safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118  not a dict
        settings = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    unet: Patches = {}
    text_encoder: Patches = {}
    names = diffusers_names(model)
    for key in tensors:
        for down_ending, up_ending in ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")):
            if key.endswith(down_ending):
                layer = key.removesuffix(down_ending)
                down, up = tensors[key], tensors[layer + up_ending]
                scale = _alpha(layer, tensors, settings) / down.shape[0]
                patch = ("diff", (scale * up @ down,))
                if layer.startswith((KOHYA_UNET, PEFT_UNET)):
                    unet[HOST_UNET + names[layer]] = patch
                else:
                    text_encoder[HOST_TEXT + _text_path(layer)] = patch
    return HostPatches(unet, text_encoder)


def diffusers_names(model: ModelPatcher) -> dict[str, str]:
    """Both spellings of every UNet weight -> its key in the host's UNet."""
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    pairs = [(name.removesuffix(".weight"), key) for name, key in table.items() if key.endswith(".weight")]
    kohya = {KOHYA_UNET + name.replace(".", "_"): key for name, key in pairs}
    return kohya | {PEFT_UNET + name: key for name, key in pairs}


def _alpha(layer: str, tensors: dict[str, Tensor], settings: dict[str, float]) -> float:
    if f"{layer}.alpha" in tensors:
        return tensors[f"{layer}.alpha"].item()
    part = "text_encoder" if layer.startswith(PEFT_TEXT) else "unet"
    return float(settings[f"{part}.lora_alpha"])


def _text_path(layer: str) -> str:
    """Only the PEFT file has a text encoder part; its names are the host's own."""
    if not layer.startswith(PEFT_TEXT):
        raise KeyError(layer)
    return layer.removeprefix(PEFT_TEXT) + ".weight"
