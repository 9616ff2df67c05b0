"""Full-size host models with made-up weights, and adapter files with random values on recorded key lists."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ._host import ROOT

KEY_LISTS = ROOT / "tests" / "key_lists"
WEIGHT = 0.02  # value of every weight: time and memory don't depend on it
SOURCE_RANK = 8  # rank of the recorded lists

SD15: Mapping[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "num_heads": 8, "context_dim": 768,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None,
    "use_temporal_attention": False,
}  # fmt: skip
SDXL: Mapping[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "num_head_channels": 64, "context_dim": 2048,
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_temporal_attention": False,
}  # fmt: skip


def build_model(family: str) -> Any:
    """A ModelPatcher of the family's full size in float16 on the CPU."""
    import comfy.model_patcher
    import comfy.supported_models

    config_class, config = {
        "SD1.5": (comfy.supported_models.SD15, SD15),
        "SDXL": (comfy.supported_models.SDXL, SDXL),
    }[family]
    settings = config_class(dict(config) | {"dtype": torch.float16})
    settings.set_inference_dtype(torch.float16, torch.float32)
    model = settings.get_model({}, "", device="cpu").eval()
    _fill(model)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def build_clip(family: str) -> Any:
    """A CLIP of the family's full size in float16 on the CPU."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base

    tokenizer, encoder = {
        "SD1.5": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    }[family]
    target = comfy.supported_models_base.ClipTarget(tokenizer, encoder)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float16})
    _fill(clip.cond_stage_model)
    return clip


def _fill(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(WEIGHT)


def write_adapter(list_name: str, rank: int, path: Path) -> Path:
    """Random float16 values on a recorded key list, its rank exchanged for `rank`."""
    fields = json.loads(gzip.decompress((KEY_LISTS / f"{list_name}.json.gz").read_bytes()))
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for key, (_, shape) in fields.items():
        if key.endswith(".alpha"):
            tensors[key] = torch.tensor(float(rank), dtype=torch.float16)
            continue
        side = 0 if "lora_down" in key else 1
        sides = [rank if place == side and length == SOURCE_RANK else length for place, length in enumerate(shape)]
        tensors[key] = (torch.randn(sides, generator=generator) * 0.01).to(torch.float16)
    save_file(tensors, path, metadata={"ss_network_dim": str(rank), "ss_network_alpha": str(rank)})
    return path
