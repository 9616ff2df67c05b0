"""The demo's diffusion model: the host's SD1.5 UNet class, narrow, on latents of 12 channels."""

from typing import ClassVar

import comfy.latent_formats
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_base import BaseModel, ModelType
from comfy.model_patcher import ModelPatcher

from .pixel_vae import LATENT_CHANNELS, RGB_OF_LATENT
from .text_encoder import WIDTH

UNET_CONFIG = {
    "image_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 0],  # input blocks, finest level first
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 0, 1, 1, 0, 0],  # output blocks, read by the host from the end
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}


class PixelLatents(comfy.latent_formats.LatentFormat):
    latent_channels = LATENT_CHANNELS
    latent_rgb_factors = RGB_OF_LATENT


class DemoShapes(comfy.supported_models.SD15):
    """SD1.5 in all but its sizes; it predicts v, and its last timestep is all but pure noise."""

    unet_config: ClassVar[dict[str, object]] = {}
    unet_extra_config: ClassVar[dict[str, object]] = {"num_heads": 2, "num_head_channels": -1}
    latent_format = PixelLatents
    sampling_settings: ClassVar[dict[str, object]] = {
        "beta_schedule": "linear",
        "linear_start": 0.00085,
        "linear_end": 0.02,
    }

    def model_type(self, state_dict: object, prefix: str = "", device: object = None) -> ModelType:
        return ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        return False  # the host takes every UNet with more than 4 input channels for one


def new_unet() -> BaseModel:
    """Its weights are whatever the memory held: load a state dict into it."""
    config = DemoShapes(UNET_CONFIG)
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device="cpu")


def patcher_of(model: BaseModel) -> ModelPatcher:
    return ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
