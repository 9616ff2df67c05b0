"""What adapters are applied to: random UNets, and single layers that a host patcher carries; and their files.

A single layer is carried as `diffusion_model.layer`, so that every loader treats it like a layer of any denoiser.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ._models import SD15, SDXL

SPREAD = 0.02  # standard deviation of made-up weights
FILE_DTYPE = torch.float16
IN_TRANSFORMERS = re.compile(r"transformer_blocks|\.proj_(in|out)$")  # the layers that kohya's LoRA takes
SMALL_SD15: Mapping[str, Any] = dict(SD15) | {
    "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "num_heads": 4,
}  # fmt: skip
SMALL_SDXL: Mapping[str, Any] = dict(SDXL) | {
    "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
}  # fmt: skip
SDXL_NAME, FLUX_NAME = "SDXL", "Flux"
FLUX: Mapping[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
SMALL_FLUX: Mapping[str, Any] = dict(FLUX) | {
    "hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 2,
}  # fmt: skip
IN_FLUX_BLOCKS = re.compile(r"(double|single)_blocks\.\d+\.(\w+_attn\.|\w+_mlp\.|linear)")
INT8, NVFP4 = "int8_tensorwise", "nvfp4"  # the host's names (ComfyUI >= 0.29)
PLAIN_STORAGES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8_e4m3": torch.float8_e4m3fn,
}  # fmt: skip
QUANTISED_STORAGES = {"int8": INT8, "nvfp4": NVFP4}
LAYER = "layer"


def build_unet(device: torch.device, *, small: bool, family: str = "SD1.5") -> Any:
    """A patcher of a family's UNet with random weights, in the dtype that the host takes on this device."""
    import comfy.model_patcher
    import comfy.supported_models

    settings, full, tiny = {
        "SD1.5": (comfy.supported_models.SD15, SD15, SMALL_SD15),
        SDXL_NAME: (comfy.supported_models.SDXL, SDXL, SMALL_SDXL),
        FLUX_NAME: (comfy.supported_models.Flux, FLUX, SMALL_FLUX),
    }[family]

    class Bare(settings):
        unet_config: Mapping[str, Any] = {}
        unet_extra_config: Mapping[str, Any] = {} if small else settings.unet_extra_config

    config = Bare({**(tiny if small else full), **_newer_settings(family)})
    config.set_inference_dtype(*host_dtypes(device, family))
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    is_dynamic = patcher is not comfy.model_patcher.ModelPatcher  # it streams what lies in the CPU's memory
    model = config.get_model({}, "", device="cpu" if is_dynamic else device).eval()  # a card draws numbers fast
    _randomise(model)
    away = device if family == FLUX_NAME else torch.device("cpu")  # 24 GB are not moved for a measurement
    return patcher(model, load_device=device, offload_device=away)


def _newer_settings(family: str) -> dict[str, Any]:
    """Of hosts after 0.3.75, at what they are for the family."""
    import dataclasses

    import comfy.ldm.flux.model

    known = {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}
    return {"txt_ids_dims": []} if family == FLUX_NAME and "txt_ids_dims" in known else {}


def host_dtypes(device: torch.device, family: str = "") -> tuple[torch.dtype, torch.dtype | None]:
    """The dtype in which the host keeps a UNet on a device, and the one it computes in if that is another."""
    import comfy.model_management as management
    import comfy.supported_models

    settings = {FLUX_NAME: comfy.supported_models.Flux}.get(family, comfy.supported_models.SD15)
    supported = settings.supported_inference_dtypes
    kept = management.unet_dtype(device, 860_000_000, supported)
    return kept, management.unet_manual_cast(kept, device, supported)


def unet_call(model: Any, side: int, batch: int, device: torch.device) -> Any:
    """One call of a UNet on a latent of `side` by `side`, as a sampler makes it."""
    config = model.model_config.unet_config
    if "image_model" in config:
        return _flux_call(model, side, batch, device)
    latent = torch.randn(batch, 4, side, side, device=device)
    text = torch.randn(batch, 77, config["context_dim"], device=device)
    time = torch.full((batch,), 5.0, device=device)
    pooled = {"y": torch.randn(batch, config["adm_in_channels"], device=device)} if config["adm_in_channels"] else {}
    return lambda: model.apply_model(latent, time, c_crossattn=text, **pooled)


def _flux_call(model: Any, side: int, batch: int, device: torch.device) -> Any:
    config = model.model_config.unet_config
    latent = torch.randn(batch, config["in_channels"], side, side, device=device)
    text = torch.randn(batch, 512, config["context_in_dim"], device=device)
    pooled = torch.randn(batch, config["vec_in_dim"], device=device)
    time, guidance = torch.full((batch,), 0.5, device=device), torch.full((batch,), 3.5, device=device)
    return lambda: model.apply_model(latent, time, c_crossattn=text, y=pooled, guidance=guidance)


@dataclass(frozen=True)
class LayerShape:
    """A Linear, or a convolution with padding that keeps the picture's size."""

    name: str
    weight: Sequence[int]  # [out, in, *kernel]
    tokens: int  # rows of the input, or pixels of a picture

    def smaller(self) -> "LayerShape":
        """For development."""
        out, inputs, *kernel = self.weight
        return replace(self, weight=(out // 8, inputs // 8, *kernel), tokens=max(4, self.tokens // 64))

    def input(self, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A random input."""
        inputs = self.weight[1]
        side = math.isqrt(self.tokens)
        shape = [batch, inputs, side, side] if len(self.weight) > 2 else [batch, self.tokens, inputs]
        return torch.randn(shape, dtype=dtype, device=device)

    def build(self, operations: Any, dtype: torch.dtype) -> nn.Module:
        """The layer of a module like torch.nn, with random weights."""
        out, inputs, *kernel = self.weight
        if kernel:
            layer = operations.Conv2d(inputs, out, tuple(kernel), padding=kernel[0] // 2, dtype=dtype, device="cpu")
        else:
            layer = operations.Linear(inputs, out, dtype=dtype, device="cpu")
        _randomise(layer)
        return layer


class _Denoiser(nn.Module):
    """As much of a host model as its patcher and its key map look at."""

    def __init__(self, layer: nn.Module, compute_dtype: torch.dtype, storage_dtype: torch.dtype) -> None:
        super().__init__()
        self.diffusion_model = nn.Module()
        self.diffusion_model.add_module(LAYER, layer)
        self.model_config = SimpleNamespace(unet_config={}, custom_operations=None)
        self.manual_cast_dtype = None if compute_dtype == storage_dtype else compute_dtype
        self._storage_dtype = storage_dtype

    def get_dtype(self) -> torch.dtype:
        """As the host's models tell it."""
        return self._storage_dtype


def carry_layer(layer: nn.Module, compute: torch.dtype, storage: torch.dtype, device: torch.device) -> Any:
    """A host patcher whose model is one layer."""
    import comfy.model_patcher

    model = _Denoiser(layer.requires_grad_(False), compute, storage)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def carried(patcher: Any) -> nn.Module:
    """The layer of `carry_layer`."""
    return patcher.model.diffusion_model.get_submodule(LAYER)


def stored_layer(shape: LayerShape, storage: str) -> tuple[nn.Module, torch.dtype] | None:
    """A host layer with weights kept as `storage`, computing in the dtype of its input; None where the host can't."""
    import comfy.ops
    import comfy.quant_ops

    if storage in PLAIN_STORAGES:
        dtype = PLAIN_STORAGES[storage]
        layer = shape.build(comfy.ops.manual_cast, torch.float32)
        return layer.to(dtype), dtype
    kind = QUANTISED_STORAGES[storage]
    if kind not in getattr(comfy.quant_ops, "QUANT_ALGOS", {}) or len(shape.weight) > 2:
        return None
    weight = torch.randn(shape.weight, generator=torch.Generator().manual_seed(0)) * SPREAD
    layer = comfy.ops.mixed_precision_ops({}, torch.bfloat16).Linear(shape.weight[1], shape.weight[0])
    marker = torch.frombuffer(bytearray(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    bias = torch.zeros(shape.weight[0], dtype=torch.bfloat16)
    layer.load_state_dict(QUANTISE[kind](weight) | {"comfy_quant": marker, "bias": bias})
    return layer, torch.bfloat16


def _int8(weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


def _nvfp4(weight: Tensor) -> dict[str, Tensor]:
    import comfy.quant_ops

    held = comfy.quant_ops.QuantizedTensor.from_float(weight.bfloat16(), "TensorCoreNVFP4Layout")
    return held.state_dict("weight")


QUANTISE = {INT8: _int8, NVFP4: _nvfp4}


def _randomise(module: nn.Module) -> None:
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for parameter in module.parameters():
            device = parameter.device
            generator = generators.setdefault(device, torch.Generator(device).manual_seed(0))
            parameter.normal_(0.0, SPREAD, generator=generator)


def transformer_layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Path -> weight shape of the layers that most LoRA files have."""
    return {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if (IN_TRANSFORMERS.search(path) or IN_FLUX_BLOCKS.search(path)) and isinstance(module, nn.Linear | nn.Conv2d)
    }


@dataclass(frozen=True)
class Factors:
    """The numbers of one adapter on one layer, as the file holds them; alpha equals the rank."""

    down: Tensor  # [rank, in, *kernel]
    up: Tensor  # [out, rank]

    def delta(self) -> Tensor:
        """up @ down in float64, [out, in, *kernel]."""
        product = self.up.double() @ self.down.double().flatten(1)
        return product.reshape(-1, *self.down.shape[1:])


def random_factors(shape: Sequence[int], rank: int, seed: int, size: float = 0.1) -> Factors:
    """Random factors; `size` is the norm of their delta over that of a weight of the usual spread."""
    generator = torch.Generator().manual_seed(seed)
    spread = math.sqrt(size * SPREAD / math.sqrt(rank))
    down = torch.randn([rank, *shape[1:]], generator=generator) * spread
    up = torch.randn([shape[0], rank], generator=generator) * spread
    return Factors(down.to(FILE_DTYPE), up.to(FILE_DTYPE))


def write_file(factors: Mapping[str, Factors], path: Path) -> str:
    """Write a kohya file for layers of a denoiser, by their paths in it. Returns the file's name."""
    tensors: dict[str, Tensor] = {}
    for layer, one in factors.items():
        name = "lora_unet_" + layer.removeprefix("diffusion_model.").replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = one.down
        tensors[f"{name}.lora_up.weight"] = one.up.reshape(*one.up.shape, *[1] * (one.down.dim() - 2))
        tensors[f"{name}.alpha"] = torch.tensor(float(one.down.shape[0]))
    save_file(tensors, path)
    return path.name
