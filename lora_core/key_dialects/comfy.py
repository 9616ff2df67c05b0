"""ComfyUI's own names: "diffusion_model.<path>" and "text_encoders.<name>.transformer.<path>", or the bare path."""

from .dialect import DOTS, TEXT_ENCODER_BY_NAME, Dialect, Parameter, Prefix

DIALECT = Dialect(
    name="comfy",
    prefixes=(
        Prefix("diffusion_model.", ("unet",), DOTS),
        Prefix("model.diffusion_model.", ("unet",), DOTS),
        Prefix("text_encoders.", (TEXT_ENCODER_BY_NAME,), DOTS),
        Prefix("", ("unet",), DOTS),
    ),
    parameters=(
        Parameter(".diff", "diff", "full difference"),
        Parameter(".diff_b", "diff_bias", "full difference"),
        Parameter(".set_weight", "set_weight", "replaced weight"),
        Parameter(".reshape_weight", "reshape", "reshaped weight"),
    ),
)
