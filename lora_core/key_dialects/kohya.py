"""kohya-ss/sd-scripts: "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", alpha as a tensor per layer."""

import re

from .dialect import LORA, UNDERSCORES, Dialect, Ignored, Parameter, Prefix

DIALECT = Dialect(
    name="kohya",
    prefixes=(
        Prefix("lora_unet_", ("unet",), UNDERSCORES),
        Prefix("lora_transformer_", ("unet",), UNDERSCORES),  # OneTrainer
        Prefix("oft_unet_", ("unet",), UNDERSCORES),
        Prefix("lora_te_", ("clip_l", "clip_h", "clip_g"), UNDERSCORES),
        Prefix("lora_te1_", ("clip_l", "clip_h"), UNDERSCORES),
        Prefix("lora_te2_", ("clip_g", "t5xxl"), UNDERSCORES),
        Prefix("lora_te3_", ("t5xxl",), UNDERSCORES),
    ),
    parameters=(
        Parameter(".lora_down.weight", "down", LORA),
        Parameter(".lora_up.weight", "up", LORA),
        Parameter(".lora_mid.weight", "mid", LORA),
        Parameter(".alpha", "alpha"),
    ),
    ignored=(Ignored(re.compile(r"^_aux\."), "bookkeeping of the trainer, no weight of the model"),),
)
