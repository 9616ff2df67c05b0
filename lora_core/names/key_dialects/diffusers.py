"""Hugging Face diffusers: "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight".

Before 0.22 the adapters sat on attention processors ("...attn1.processor.to_q_lora.down.weight"), and on the text
encoder's layers as "lora_linear_layer". DiffSynth calls the denoiser "pipe.dit".
"""

from .dialect import (
    ANY_ENCODER,
    CLIPS,
    DOTS,
    FIRST_ENCODER,
    LORA,
    SECOND_ENCODER,
    THIRD_ENCODER,
    Dialect,
    Parameter,
    Prefix,
)

# A part saved out of a pipeline that was saved as a part, or twice.
NESTED = (("unet.", "unet."), ("pipe.", "unet."), ("pipe.", "transformer."), ("transformer.", "transformer."))

DIALECT = Dialect(
    name="diffusers",
    prefixes=(
        Prefix("unet.", ("unet",), DOTS),
        Prefix("transformer.", ("unet",), DOTS),
        Prefix("transformer_2.", ("unet",), DOTS),
        *(Prefix(f"{outer}{part}", ("unet",), DOTS) for outer, part in NESTED),
        Prefix("pipe.dit.", ("unet",), DOTS),
        Prefix("conditional_transformer.", ("unet",), DOTS),  # Ideogram 4
        Prefix("prior.", ("unet",), DOTS),  # Stable Cascade
        Prefix("prior_text_encoder.", ANY_ENCODER, DOTS),
        Prefix("text_encoder.", (*CLIPS, *FIRST_ENCODER), DOTS),
        Prefix("text_encoder_2.", SECOND_ENCODER, DOTS),
        Prefix("text_encoder_3.", THIRD_ENCODER, DOTS),
        Prefix("text_encoder_4.", THIRD_ENCODER, DOTS),
    ),
    parameters=(
        Parameter(".lora.down.weight", "down", LORA),
        Parameter(".lora.up.weight", "up", LORA),
        Parameter("_lora.down.weight", "down", LORA),
        Parameter("_lora.up.weight", "up", LORA),
        Parameter(".lora_linear_layer.down.weight", "down", LORA),
        Parameter(".lora_linear_layer.up.weight", "up", LORA),
    ),
)
