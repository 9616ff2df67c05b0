"""Hugging Face PEFT: "base_model.model.down_blocks.0...attn1.to_q.lora_A.weight", alpha in adapter_config.json."""

import re

from .dialect import (
    ANY_ENCODER,
    DOTS,
    LORA,
    SECOND_ENCODER,
    THIRD_ENCODER,
    Dialect,
    Ignored,
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
SHARED_PROJECTION = re.compile(r"^base_model\.(?P<role>vera_[AB])(\.[^.]+)?$")

# Parameters, as peft 0.21.2 saves them, of algorithms that are not applied, so that a refusal names the algorithm.
FOREIGN = (
    "beft_bias",
    "c3a_kernel",
    "deft_P",
    "deft_R",
    "delora_A",
    "delora_B",
    "delora_lambda",
    "delora_w_norm",
    "fourierft_spectrum",
    "frod_lambda_l",
    "frod_lambda_s_values",
    *(f"glora_{name}" for name in ("A.Xd", "A.Xu", "B.Xd", "B.Xu", "C.Xd", "C.Xu", "D.X", "E.X")),
    "gralora_A",
    "gralora_B",
    "hira_A",
    "hira_B",
    "hra_u",
    "lily_A.weight",
    "lily_B.weight",
    "lily_router.weight",
    "oft_r",
    "peanut_A.weight",
    "peanut_B.weight",
    "poly_lora_A",
    "poly_lora_B",
    "pvera_lambda_b",
    "pvera_lambda_d",
    "randlora_gamma",
    "randlora_lambda",
    "road_alpha",
    "road_theta",
    "supertuning_indices",
    "supertuning_values",
    "tinylora_A",
    "tinylora_B",
    "tinylora_P",
    "vblora_logits_A",
    "vblora_logits_B",
)

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
        Parameter(".ranknum", "ranknum", "adalora", slot=True),
        Parameter(".oft_R.weight", "oft_R", "oft", slot=True),
        Parameter(".oft_R.scaled_oft", "oft_scaled", "oft"),  # OneTrainer
        Parameter(".boft_R", "boft_R", "boft", slot=True),
        Parameter(".boft_s", "boft_s", "boft", slot=True),
        Parameter(".vera_lambda_b", "vera_lambda_b", "vera", slot=True),
        Parameter(".vera_lambda_d", "vera_lambda_d", "vera", slot=True),
        Parameter(".lora_magnitude_vector", "magnitude_per_output", "dora", slot=True),
        Parameter(".lora_magnitude_vector.weight", "magnitude_per_output", "dora", slot=True),
        Parameter(".magnitude", "magnitude_per_output", "dora"),  # ai-toolkit
        Parameter(".modules_to_save.default.weight", "set_weight", "replaced weight"),
        Parameter(".modules_to_save.default.bias", "set_bias", "replaced weight"),
        *(Parameter(f".{name}", name, name.partition("_")[0]) for name in FOREIGN),
    ),
    ignored=(
        Ignored(SHARED_PROJECTION, "of no layer: the projections that every VeRA layer of the file uses"),
        Ignored(re.compile(r"\.base_layer\.(?:weight|bias)$"), "the model's own weight, saved with the adapter"),
        Ignored(re.compile(r"\.original_module\."), "the model's own weight, saved with the adapter"),
    ),
)
