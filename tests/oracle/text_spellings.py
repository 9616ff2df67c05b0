"""Writes the PEFT adapters of a family's text encoders in every spelling in use."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor

from .adapters import PeftAdapter
from .spellings import DOWN_UP, parts_of, pipeline_of, plain_config
from .tiny_clips import PARTS, WRAPPER

Adapters = Mapping[str, PeftAdapter]  # by the pipeline's names: "text_encoder", "text_encoder_2"
Write = Callable[[Path, str, Adapters], None]  # file, family, adapters

DIFFUSERS_SIDES = {"lora_A": "down", "lora_B": "up"}
OLD_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
BOTH = ("SD1.5", "SDXL")


@dataclass(frozen=True)
class TextSpelling:
    """A way to write text encoder adapters."""

    name: str
    write: Write
    families: tuple[str, ...] = BOTH
    carries_alpha: bool = True


def diffusers_pipeline(path: Path, family: str, adapters: Adapters) -> None:
    """pipeline.save_lora_weights: text_encoder.<module as this transformers has it>.lora_A.weight."""
    layers = {f"{name}_lora_layers": dict(adapter.tensors) for name, adapter in adapters.items()}
    headers = {f"{name}_lora_adapter_metadata": plain_config(adapter) for name, adapter in adapters.items()}
    pipeline_of(family).save_lora_weights(path.parent, **layers, **headers, weight_name=path.name)


def diffusers_pipeline_before_transformers_5(path: Path, family: str, adapters: Adapters) -> None:
    """The same with the level "text_model." that CLIPTextModel had."""
    tensors = {f"{part}.{module}.{side}.weight": tensor for part, module, side, tensor in _wrapped(adapters)}
    config = {
        f"{part}.{name}": value for part, adapter in adapters.items() for name, value in plain_config(adapter).items()
    }
    save_file(tensors, path, metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(config)})


def diffusers_linear_layers(path: Path, family: str, adapters: Adapters) -> None:
    """convert_state_dict_to_diffusers: text_encoder...q_proj.lora_linear_layer.down.weight."""
    tensors: dict[str, Tensor] = {}
    for part, adapter in adapters.items():
        converted = convert_state_dict_to_diffusers(dict(adapter.tensors))
        tensors |= {f"{part}.{key}": tensor for key, tensor in converted.items()}
    save_file(tensors, path)


def diffusers_projections(path: Path, family: str, adapters: Adapters) -> None:
    """Diffusers 0.16: text_encoder...self_attn.to_q_lora.down.weight."""
    tensors: dict[str, Tensor] = {}
    for part, module, side, tensor in _wrapped(adapters):
        attention, projection = module.rsplit(".", 1)
        tensors[f"{part}.{attention}.{OLD_PROJECTIONS[projection]}_lora.{DIFFUSERS_SIDES[side]}.weight"] = tensor
    save_file(tensors, path)


def kohya_te(path: Path, family: str, adapters: Adapters) -> None:
    """sd-scripts on SD1.5: lora_te_text_model_encoder_layers_0_..., an alpha tensor per layer."""
    _save_with_alpha(path, adapters, lambda part, module: "lora_te_" + module.replace(".", "_"), DOWN_UP)


def kohya_numbered(path: Path, family: str, adapters: Adapters) -> None:
    """sd-scripts on SDXL: lora_te1_text_model_..., lora_te2_text_model_..."""
    prefixes = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    _save_with_alpha(path, adapters, lambda part, module: prefixes[part] + module.replace(".", "_"), DOWN_UP)


def kohya_by_diffusers(path: Path, family: str, adapters: Adapters) -> None:
    """convert_state_dict_to_kohya: lora_te1_encoder_layers_0_... with this transformers, alpha always the rank."""
    tensors = {f"{part}.{key}": tensor for part, adapter in adapters.items() for key, tensor in adapter.tensors.items()}
    save_file(convert_state_dict_to_kohya(tensors), path)


def comfy_native(path: Path, family: str, adapters: Adapters) -> None:
    """ComfyUI's own: text_encoders.clip_l.transformer.text_model....lora_A.weight, an alpha tensor per layer."""
    keep = {side: side for side in DOWN_UP}
    host = PARTS[family]
    _save_with_alpha(path, adapters, lambda part, module: f"text_encoders.{host[part]}.transformer.{module}", keep)


def peft_directory(path: Path, family: str, adapters: Adapters) -> None:
    """PeftModel.save_pretrained of the one text encoder."""
    (adapter,) = adapters.values()
    save_file({f"base_model.model.{key}": tensor for key, tensor in adapter.tensors.items()}, path)
    adapter.config.save_pretrained(path.parent)


def peft_directory_before_transformers_5(path: Path, family: str, adapters: Adapters) -> None:
    """The same with the level "text_model." that CLIPTextModel had."""
    save_file(
        {f"base_model.model.{module}.{side}.weight": tensor for _, module, side, tensor in _wrapped(adapters)}, path
    )
    (adapter,) = adapters.values()
    adapter.config.save_pretrained(path.parent)


TEXT_SPELLINGS = (
    TextSpelling("diffusers pipeline", diffusers_pipeline),
    TextSpelling("diffusers pipeline, text_model", diffusers_pipeline_before_transformers_5),
    TextSpelling("diffusers lora_linear_layer", diffusers_linear_layers, carries_alpha=False),
    TextSpelling("diffusers to_q_lora", diffusers_projections, carries_alpha=False),
    TextSpelling("kohya lora_te", kohya_te, families=("SD1.5",)),
    TextSpelling("kohya lora_te1 and te2", kohya_numbered),
    TextSpelling("kohya by diffusers", kohya_by_diffusers, carries_alpha=False),
    TextSpelling("comfy native", comfy_native),
    TextSpelling("peft directory", peft_directory, families=("SD1.5",)),
    TextSpelling("peft directory, text_model", peft_directory_before_transformers_5, families=("SD1.5",)),
)


def _wrapped(adapters: Adapters) -> Iterator[tuple[str, str, str, Tensor]]:
    """(part, module behind "text_model.", "lora_A" or "lora_B", tensor) of every tensor."""
    for part, adapter in adapters.items():
        for module, side, tensor in parts_of(adapter):
            yield part, _with_wrapper(module), side, tensor


def _with_wrapper(module: str) -> str:
    return module if module.startswith(WRAPPER) else WRAPPER + module


def _save_with_alpha(
    path: Path, adapters: Adapters, layer: Callable[[str, str], str], sides: Mapping[str, str]
) -> None:
    tensors = {
        f"{layer(part, module)}.{sides[side]}.weight": tensor for part, module, side, tensor in _wrapped(adapters)
    }
    for part, adapter in adapters.items():
        for module, alpha in adapter.alphas.items():
            tensors[f"{layer(part, _with_wrapper(module))}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
