"""kohya-ss/sd-scripts: "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", alpha as a tensor per layer."""

import re

from .dialect import (
    ANY_ENCODER,
    FIRST_ENCODER,
    LORA,
    SECOND_ENCODER,
    THIRD_ENCODER,
    UNDERSCORES,
    Dialect,
    Ignored,
    Parameter,
    Prefix,
)

DIALECT = Dialect(
    name="kohya",
    prefixes=(
        Prefix("lora_unet_", ("unet",), UNDERSCORES),
        Prefix("lora_unet__", ("unet",), UNDERSCORES),  # Wan-Fun
        Prefix("lora_transformer_", ("unet",), UNDERSCORES),  # OneTrainer
        Prefix("lora_prior_unet_", ("unet",), UNDERSCORES),  # Stable Cascade
        Prefix("oft_unet_", ("unet",), UNDERSCORES),
        Prefix("Hunyuan_video_lora_", ("unet",), UNDERSCORES),  # Tencent
        Prefix("Hunyuan_video_I2V_lora_", ("unet",), UNDERSCORES),
        Prefix("lora_te_", ANY_ENCODER, UNDERSCORES),
        Prefix("lora_prior_te_", ANY_ENCODER, UNDERSCORES),
        Prefix("lora_te1_", FIRST_ENCODER, UNDERSCORES),
        Prefix("lora_te2_", SECOND_ENCODER, UNDERSCORES),
        Prefix("lora_te3_", THIRD_ENCODER, UNDERSCORES),
        Prefix("lora_te4_", THIRD_ENCODER, UNDERSCORES),
        Prefix("lora_unet_model_", ("unet",), UNDERSCORES),  # HiDream-O1: a level more than the model has
    ),
    parameters=(
        Parameter(".lora_down.weight", "down", LORA),
        Parameter(".lora_up.weight", "up", LORA),
        Parameter(".lora_mid.weight", "mid", LORA),
        Parameter(".alpha", "alpha"),
        Parameter(".lora_alpha", "alpha"),  # SimpleTuner
        *(Parameter(f".oft_blocks.{run}", f"oft_blocks_{run}", "oft") for run in range(8)),  # of fused layers of Flux
    ),
    ignored=(
        Ignored(re.compile(r"^_aux\."), "bookkeeping of the trainer, no weight of the model"),
        Ignored(re.compile(r"^bundle_emb\."), "a text embedding bundled with the file; load it as an embedding"),
    ),
)
