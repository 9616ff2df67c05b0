"""Pairs of tiny UNets with equal weights and full key structure: one of diffusers, one of the host."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from comfy.model_patcher import ModelPatcher
from comfy.utils import unet_to_diffusers
from diffusers import UNet2DConditionModel
from torch import Tensor

SEED = 20240229
GAIN = 0.7  # of a random layer; at 1, seventy of them in a row amplify float32 rounding to 5e-6
CONTEXT = 32  # width of the text that cross-attention reads
POOLED = 32  # width of SDXL's pooled text
TIME_WIDTH = 8  # of the embedding of each of SDXL's six picture sizes

# What UNet2DConditionModel is made from. Widths 1:2:4(:4), since equal ones would drop the shortcut convolutions.
REFERENCES: Mapping[str, Mapping[str, Any]] = {
    "SD1.5": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 128, 128),
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 2,  # the number of heads, in spite of its name
    },
    "SDXL": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (2, 4, 8),
        "cross_attention_dim": CONTEXT,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": POOLED + 6 * TIME_WIDTH,
    },
}
COMMON_OF_HOST: Mapping[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "context_dim": CONTEXT,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
HOSTS: Mapping[str, Mapping[str, Any]] = {
    "SD1.5": {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "num_heads": 2,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    },
    "SDXL": {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "num_heads": -1,
        "num_head_channels": 16,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": POOLED + 6 * TIME_WIDTH,
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One batch for a UNet."""

    latents: Tensor  # [batch, 4, height, width]
    timesteps: Tensor  # [batch]
    context: Tensor  # [batch, tokens, CONTEXT]
    pooled: Tensor  # [batch, POOLED]; SDXL only
    sizes: Tensor  # [batch, 6], pixels: height, width, crop from top and left, target height, width; SDXL only


@dataclass(frozen=True, kw_only=True, eq=False)
class TwinUNet:
    """A reference UNet and a host model with the same weights."""

    family: str
    reference: UNet2DConditionModel
    patcher: ModelPatcher
    names: Mapping[str, str]  # the reference's name of a parameter -> the host's
    sample: Sample

    @cached_property
    def base(self) -> Tensor:
        """The host's output when it was first asked for, before any adapter."""
        return self.host_output()

    def reference_output(self) -> Tensor:
        """What the reference computes now, with whatever is injected into it."""
        sample = self.sample
        added = {"text_embeds": sample.pooled, "time_ids": sample.sizes} if self.family == "SDXL" else None
        with torch.no_grad():
            return self.reference(sample.latents, sample.timesteps, sample.context, added_cond_kwargs=added).sample

    def host_output(self, patcher: ModelPatcher | None = None) -> Tensor:
        """What the host's UNet computes when this patcher (by default the unpatched one) has loaded it."""
        patcher = patcher or self.patcher
        comfy.model_management.load_models_gpu([patcher])
        sample = self.sample
        label = self._label() if self.family == "SDXL" else None
        with torch.no_grad():
            return patcher.model.diffusion_model(sample.latents, sample.timesteps, context=sample.context, y=label)

    def host_weights(self) -> dict[str, Tensor]:
        """Copies of the host's parameters as they are now."""
        return {name: tensor.clone() for name, tensor in self.patcher.model.diffusion_model.state_dict().items()}

    def _label(self) -> Tensor:
        """SDXL's vector condition, by the host's own embedding: [batch, POOLED + 6 * TIME_WIDTH]."""
        embed = Timestep(TIME_WIDTH)
        sizes = torch.stack([embed(of_one).flatten() for of_one in self.sample.sizes])
        return torch.cat([self.sample.pooled, sizes], dim=1)


def twin_unet(family: str, context: int = CONTEXT, pooled: int = POOLED) -> TwinUNet:
    """Make both UNets of a family, and carry every parameter from the reference to the host's."""
    widths: dict[str, int] = {"cross_attention_dim": context}
    if family == "SDXL":
        widths["projection_class_embeddings_input_dim"] = pooled + 6 * TIME_WIDTH
    reference = UNet2DConditionModel(**{**REFERENCES[family], **widths}).eval().requires_grad_(False)
    randomise_(reference, torch.Generator().manual_seed(SEED))
    patcher = _host_model(family, context, pooled)
    to_host = unet_to_diffusers(patcher.model.model_config.unet_config)
    weights = reference.state_dict()
    names = {name: to_host[name] for name in weights}
    patcher.model.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    return TwinUNet(family=family, reference=reference, patcher=patcher, names=names, sample=_sample(context, pooled))


def in_float64(twin: TwinUNet) -> TwinUNet:
    """Twins of their own with the same numbers, which compute in float64."""
    comfy.model_management.load_models_gpu([twin.patcher])  # takes out what other patchers of these weights put in
    config = twin.patcher.model.model_config  # shared: newer hosts' configs can't be copied
    inner = copy.deepcopy(twin.patcher.model, {id(config): config}).double()
    inner.manual_cast_dtype = None
    inner.diffusion_model.dtype = torch.float64  # in which the host hands latents and texts over
    cpu = torch.device("cpu")
    return TwinUNet(
        family=twin.family,
        reference=copy.deepcopy(twin.reference).double(),
        patcher=ModelPatcher(inner, load_device=cpu, offload_device=cpu),
        names=twin.names,
        sample=twin.sample,
    )


def randomise_(model: torch.nn.Module, rng: torch.Generator) -> None:
    """Fill every parameter such that outputs stay of the order of 1, also those that libraries start at 0 or 1."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        if parameter.dim() > 1:
            parameter.data = noise * GAIN / math.sqrt(parameter[0].numel())
        else:
            parameter.data = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)


def _host_model(family: str, context: int, pooled: int) -> ModelPatcher:
    base = {"SD1.5": comfy.supported_models.SD15, "SDXL": comfy.supported_models.SDXL}[family]
    tiny = type("Tiny", (base,), {"unet_config": {}, "unet_extra_config": {}})
    widths: dict[str, int] = {"context_dim": context}
    if family == "SDXL":
        widths["adm_in_channels"] = pooled + 6 * TIME_WIDTH
    config = tiny({**COMMON_OF_HOST, **HOSTS[family], **widths})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device="cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _sample(context: int, pooled: int) -> Sample:
    rng = torch.Generator().manual_seed(SEED + 1)
    return Sample(
        latents=torch.randn(2, 4, 8, 8, generator=rng),
        timesteps=torch.tensor([721.0, 33.0]),
        context=torch.randn(2, 7, context, generator=rng),
        pooled=torch.randn(2, pooled, generator=rng),
        sizes=torch.tensor([[64.0, 64, 0, 0, 64, 64], [96, 48, 8, 0, 64, 32]]),
    )
