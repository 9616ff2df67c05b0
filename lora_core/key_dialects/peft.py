"""Hugging Face PEFT: "base_model.model.down_blocks.0...attn1.to_q.lora_A.weight", alpha in adapter_config.json."""

from .dialect import (
    ANY_ENCODER,
    DOTS,
    LORA,
    SECOND_ENCODER,
    THIRD_ENCODER,
    Dialect,
    Parameter,
    Prefix,
)

WRAPPER = "base_model.model."
# Wrapped around a whole pipeline's part, or around a part that stands in a pipeline's file.
PARTS = {
    "unet.": ("unet",),
    "transformer.": ("unet",),
    "diffusion_model.": ("unet",),
    "text_encoder.": ANY_ENCODER,
    "text_encoder_2.": SECOND_ENCODER,
    "text_encoder_3.": THIRD_ENCODER,
}

DIALECT = Dialect(
    name="peft",
    prefixes=(
        Prefix(WRAPPER, ("unet", *ANY_ENCODER), DOTS),
        *(Prefix(part + WRAPPER, parts, DOTS) for part, parts in PARTS.items()),
        *(Prefix(WRAPPER + part, parts, DOTS) for part, parts in PARTS.items()),
    ),
    saves_modules=True,
    parameters=(
        Parameter(".lora_A.weight", "down", LORA, slot=True),
        Parameter(".lora_B.weight", "up", LORA, slot=True),
        Parameter(".lora_A", "down", LORA, slot=True),
        Parameter(".lora_B", "up", LORA, slot=True),
        Parameter(".lora_embedding_A", "embedding_down", LORA, slot=True),
        Parameter(".lora_embedding_B", "embedding_up", LORA, slot=True),
        Parameter(".lora_B.bias", "up_bias", "lora bias", slot=True),
        Parameter(".ia3_l", "ia3_l", "ia3", slot=True),
        Parameter(".lora_E", "lora_E", "adalora", slot=True),
        Parameter(".oft_R.weight", "oft_R", "oft of PEFT", slot=True),
        Parameter(".vera_lambda_b", "vera_lambda_b", "vera", slot=True),
        Parameter(".vera_lambda_d", "vera_lambda_d", "vera", slot=True),
        Parameter(".lora_magnitude_vector", "magnitude", "dora", slot=True),
        Parameter(".lora_magnitude_vector.weight", "magnitude", "dora", slot=True),
    ),
)
