"""Writes one PEFT adapter of a UNet in every spelling in use, by the libraries' own writers where they have one."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor

from .adapters import PeftAdapter
from .tiny_unets import TwinUNet

Write = Callable[[Path, TwinUNet, PeftAdapter], None]

DOWN_UP = {"lora_A": "lora_down", "lora_B": "lora_up"}


@dataclass(frozen=True)
class Spelling:
    """A way to write an adapter, and recipes that it can carry whole; the last is the one for a large model."""

    name: str
    write: Write
    recipes: tuple[str, ...]

    def file_in(self, folder: Path, twin: TwinUNet, adapter: PeftAdapter) -> str:
        """Write the file into a folder of its own below `folder`; its name for the node."""
        own = Path(tempfile.mkdtemp(prefix=self.name.replace(" ", "_"), dir=folder))
        self.write(own / "adapter_model.safetensors", twin, adapter)
        return f"{own.name}/adapter_model.safetensors"


def peft_directory(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """PeftModel.save_pretrained: base_model.model.<module>.lora_A.weight, the scale in adapter_config.json."""
    save_file({f"base_model.model.{key}": tensor for key, tensor in adapter.tensors.items()}, path)
    adapter.config.save_pretrained(path.parent)


def peft_of_unet_directory(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """The same behind "unet.", as training scripts save the parts of a pipeline."""
    save_file({f"unet.base_model.model.{key}": tensor for key, tensor in adapter.tensors.items()}, path)
    adapter.config.save_pretrained(path.parent)


def diffusers_unet(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """unet.save_lora_adapter: bare module names, the scale in the header."""
    header = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(plain_config(adapter))}
    save_file(dict(adapter.tensors), path, metadata=header)


def diffusers_pipeline(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """pipeline.save_lora_weights: unet.<module>.lora_A.weight, the scale in the header."""
    pipeline_of(twin.family).save_lora_weights(
        path.parent,
        unet_lora_layers=dict(adapter.tensors),
        unet_lora_adapter_metadata=plain_config(adapter),
        weight_name=path.name,
    )


def diffusers_training_script(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """The same after convert_state_dict_to_diffusers: unet.<module>.lora.down.weight on attention, else lora_A."""
    pipeline_of(twin.family).save_lora_weights(
        path.parent,
        unet_lora_layers=convert_state_dict_to_diffusers(dict(adapter.tensors)),
        unet_lora_adapter_metadata=plain_config(adapter),
        weight_name=path.name,
    )


def diffusers_without_header(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """Diffusers before 0.34: no scale anywhere."""
    tensors = convert_state_dict_to_diffusers(dict(adapter.tensors))
    save_file({f"unet.{key}": tensor for key, tensor in tensors.items()}, path)


def diffusers_processors(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """Diffusers up to 0.22: ...attn1.processor.to_q_lora.down.weight, and to_out without its ".0"."""
    sides = {"lora_A": "down", "lora_B": "up"}
    tensors: dict[str, Tensor] = {}
    for module, side, tensor in parts_of(adapter):
        attention, projection = module.removesuffix(".0").rsplit(".", 1)
        tensors[f"unet.{attention}.processor.{projection}_lora.{sides[side]}.weight"] = tensor
    save_file(tensors, path)


def kohya_by_diffusers(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """convert_state_dict_to_kohya, which knows no alpha but the rank."""
    save_file(convert_state_dict_to_kohya({f"unet.{key}": tensor for key, tensor in adapter.tensors.items()}), path)


def kohya_diffusers_names(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """sd-scripts on SD1.5, OneTrainer on SDXL: lora_unet_down_blocks_0_..., an alpha tensor per layer."""
    _save_with_alpha(path, adapter, lambda module: "lora_unet_" + module.replace(".", "_"), DOWN_UP)


def kohya_ldm_names(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """sd-scripts on SDXL: lora_unet_input_blocks_4_1_..., an alpha tensor per layer."""
    _save_with_alpha(path, adapter, lambda module: "lora_unet_" + _ldm(twin, module).replace(".", "_"), DOWN_UP)


def comfy_native(path: Path, twin: TwinUNet, adapter: PeftAdapter) -> None:
    """ComfyUI's own: diffusion_model.<path of the host>.lora_A.weight, an alpha tensor per layer."""
    keep = {side: side for side in DOWN_UP}
    _save_with_alpha(path, adapter, lambda module: "diffusion_model." + _ldm(twin, module), keep)


CONFIGURED = ("own alpha", "rank-stabilised", "rank-stabilised patterns", "patterns", "every layer")
SCALED = ("patterns", "every layer")
SPELLINGS = (
    Spelling("peft directory", peft_directory, CONFIGURED),
    Spelling("peft directory of a unet", peft_of_unet_directory, SCALED),
    Spelling("diffusers unet", diffusers_unet, SCALED),
    Spelling("diffusers pipeline", diffusers_pipeline, CONFIGURED),
    Spelling("diffusers training script", diffusers_training_script, SCALED),
    Spelling("diffusers without header", diffusers_without_header, ("every layer, alpha as rank", "alpha as rank")),
    Spelling("diffusers attention processors", diffusers_processors, ("alpha as rank",)),
    Spelling("kohya by diffusers", kohya_by_diffusers, ("every layer, alpha as rank", "alpha as rank")),
    Spelling("kohya, diffusers names", kohya_diffusers_names, SCALED),
    Spelling("kohya, ldm names", kohya_ldm_names, SCALED),
    Spelling("comfy native", comfy_native, SCALED),
)


def parts_of(adapter: PeftAdapter) -> list[tuple[str, str, Tensor]]:
    """(module, "lora_A" or "lora_B", tensor) of every tensor."""
    split = ((key.removesuffix(".weight").rpartition("."), tensor) for key, tensor in adapter.tensors.items())
    return [(module, side, tensor) for (module, _, side), tensor in split]


def _save_with_alpha(path: Path, adapter: PeftAdapter, layer: Callable[[str], str], sides: Mapping[str, str]) -> None:
    tensors = {f"{layer(module)}.{sides[side]}.weight": tensor for module, side, tensor in parts_of(adapter)}
    tensors |= {f"{layer(module)}.alpha": torch.tensor(alpha) for module, alpha in adapter.alphas.items()}
    save_file(tensors, path)


def _ldm(twin: TwinUNet, module: str) -> str:
    return twin.names[f"{module}.weight"].removesuffix(".weight")


def plain_config(adapter: PeftAdapter) -> dict[str, object]:
    """The configuration as diffusers puts it into a header: sets as lists."""
    fields = adapter.config.to_dict()
    return {name: list(value) if isinstance(value, set) else value for name, value in fields.items()}


def pipeline_of(family: str) -> type:
    return {"SD1.5": StableDiffusionLoraLoaderMixin, "SDXL": StableDiffusionXLLoraLoaderMixin}[family]
