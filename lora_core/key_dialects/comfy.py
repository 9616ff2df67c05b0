"""ComfyUI's own names: "diffusion_model.<path>" and "text_encoders.<name>.transformer.<path>", or the bare path."""

from .dialect import DOTS, Dialect, Parameter, Prefix

DIALECT = Dialect(
    name="comfy",
    prefixes=(
        Prefix("diffusion_model.", ("unet",), DOTS),
        Prefix("model.diffusion_model.", ("unet",), DOTS),
        Prefix("text_encoders.clip_l.transformer.", ("clip_l",), DOTS),
        Prefix("text_encoders.clip_g.transformer.", ("clip_g",), DOTS),
        Prefix("text_encoders.clip_h.transformer.", ("clip_h",), DOTS),
        Prefix("text_encoders.t5xxl.transformer.", ("t5xxl",), DOTS),
        Prefix("", ("unet",), DOTS),
    ),
    parameters=(
        Parameter(".diff", "diff", "full difference"),
        Parameter(".diff_b", "diff_bias", "full difference"),
        Parameter(".set_weight", "set_weight", "replaced weight"),
        Parameter(".reshape_weight", "reshape", "reshaped weight"),
    ),
)
