"""ComfyUI's own names: "diffusion_model.<path>" and "text_encoders.<name>.transformer.<path>", or the bare path."""

import re

from .dialect import DOTS, TEXT_ENCODER_BY_NAME, Dialect, Ignored, Parameter, Prefix

DIALECT = Dialect(
    name="comfy",
    prefixes=(
        Prefix("diffusion_model.", ("unet",), DOTS),
        Prefix("model.diffusion_model.", ("unet",), DOTS),
        Prefix("diffusion_model.model.", ("unet",), DOTS),  # HiDream-O1: a level more than the model has
        Prefix("diffusion_model_", ("unet",), DOTS),
        Prefix("net.", ("unet",), DOTS),  # checkpoints of Cosmos and Anima
        Prefix("text_encoders.", (TEXT_ENCODER_BY_NAME,), DOTS),
        Prefix("", ("unet",), DOTS),
    ),
    parameters=(
        Parameter(".diff", "diff", "full difference"),
        Parameter(".diff_b", "diff_bias", "full difference"),
        Parameter(".diff_m", "diff_m", "full difference"),  # of a Wan block's modulation
        Parameter(".set_weight", "set_weight", "replaced weight"),
        Parameter(".reshape_weight", "reshape", "reshaped weight"),
        Parameter(".scale", "scale", "whole weight"),  # of a norm; beside matrices, A1111's scale of them
        Parameter(".bias", "whole_bias", "whole weight"),
    ),
    ignored=(Ignored(re.compile(r"(?:^|\.)scaled_fp8$"), "marks a file as fp8; no weight of the model"),),
)
