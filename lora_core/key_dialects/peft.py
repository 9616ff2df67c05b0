"""Hugging Face PEFT: "base_model.model.down_blocks.0...attn1.to_q.lora_A.weight", alpha in adapter_config.json."""

from .dialect import DOTS, LORA, Dialect, Parameter, Prefix

DIALECT = Dialect(
    name="peft",
    prefixes=(
        Prefix("base_model.model.", ("unet", "clip_l", "clip_h", "clip_g"), DOTS),
        Prefix("unet.base_model.model.", ("unet",), DOTS),
        Prefix("transformer.base_model.model.", ("unet",), DOTS),
        Prefix("text_encoder.base_model.model.", ("clip_l", "clip_h", "clip_g"), DOTS),
        Prefix("text_encoder_2.base_model.model.", ("clip_g", "t5xxl"), DOTS),
        Prefix("base_model.model.unet.", ("unet",), DOTS),
        Prefix("base_model.model.text_encoder.", ("clip_l", "clip_h", "clip_g"), DOTS),
    ),
    parameters=(
        Parameter(".lora_A.weight", "down", LORA, slot=True),
        Parameter(".lora_B.weight", "up", LORA, slot=True),
        Parameter(".lora_A", "down", LORA),
        Parameter(".lora_B", "up", LORA),
        Parameter(".lora_B.bias", "up_bias", "lora bias", slot=True),
        Parameter(".ia3_l", "ia3_l", "ia3"),
        Parameter(".lora_E", "lora_E", "adalora"),
        Parameter(".oft_R.weight", "oft_R", "oft of PEFT", slot=True),
        Parameter(".vera_lambda_b", "vera_lambda_b", "vera"),
        Parameter(".vera_lambda_d", "vera_lambda_d", "vera"),
        Parameter(".lora_magnitude_vector", "magnitude", "dora"),
        Parameter(".lora_magnitude_vector.weight", "magnitude", "dora", slot=True),
    ),
)
