"""diffusers' own UNets with random weights, and PEFT's adapters on them as diffusers puts them there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ._device import Call

PLAIN_DIFFUSERS = "diffusers' UNet alone"
PEFT_DIFFUSERS = "PEFT on diffusers"
LAYERS = r".*transformer_blocks.*\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)|.*attentions\.\d+\.proj_(in|out)"
CONFIGS: Mapping[str, Mapping[str, Any]] = {  # what UNet2DConditionModel is made from
    "SD1.5": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "SDXL": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
POOLED, SIZES = 1280, 6  # of SDXL: width of the pooled text, and the picture's sizes that it is told


def build(family: str, device: torch.device) -> Any:
    """A UNet of the family's full size."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**CONFIGS[family]).eval().requires_grad_(False).to(device)


def call_of(unet: Any, side: int, batch: int, device: torch.device) -> Call:
    """One call on a latent of `side` by `side`, as a pipeline makes it."""
    latent = torch.randn(batch, 4, side, side, device=device)
    text = torch.randn(batch, 77, unet.config.cross_attention_dim, device=device)
    more = {"text_embeds": torch.randn(batch, POOLED, device=device), "time_ids": torch.ones(batch, SIZES).to(device)}
    given = {"added_cond_kwargs": more} if unet.config.addition_embed_type else {}
    return lambda: unet(latent, 500, encoder_hidden_states=text, **given).sample


@contextmanager
def with_adapters(unet: Any, ranks: Sequence[int], call: Call) -> Iterator[Call]:
    """The call with one adapter of each rank, all active, on the layers that kohya's LoRA takes."""
    from peft import LoraConfig

    names = [f"adapter_{number}" for number in range(len(ranks))]
    for name, rank in zip(names, ranks, strict=True):
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS, init_lora_weights=False), name)
    if not ranks:
        yield call
        return
    unet.set_adapters(names)
    try:
        yield call
    finally:
        unet.delete_adapters(names)
