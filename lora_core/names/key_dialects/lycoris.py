"""LyCORIS: the parameters of its algorithms, on kohya's names or behind its own "lycoris_" prefix."""

from .dialect import (
    ANY_ENCODER,
    FIRST_ENCODER,
    SECOND_ENCODER,
    THIRD_ENCODER,
    UNDERSCORES,
    Dialect,
    Parameter,
    Prefix,
)

HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

DIALECT = Dialect(
    name="lycoris",
    prefixes=(
        Prefix("lycoris_", ("unet",), UNDERSCORES),
        Prefix("lycoris_unet_", ("unet",), UNDERSCORES),
        Prefix("lycoris_te_", ANY_ENCODER, UNDERSCORES),
        Prefix("lycoris_te1_", FIRST_ENCODER, UNDERSCORES),
        Prefix("lycoris_te2_", SECOND_ENCODER, UNDERSCORES),
        Prefix("lycoris_te3_", THIRD_ENCODER, UNDERSCORES),
    ),
    parameters=(
        Parameter(".dora_scale", "magnitude", "dora"),
        *(Parameter(f".{name}", name, "loha", slot=True) for name in HADA),
        *(Parameter(f".{name}", name, "lokr", slot=True) for name in LOKR),
        *(Parameter(f".{name}.weight", name, "glora") for name in ("a1", "a2", "b1", "b2", "bm")),
        Parameter(".oft_blocks", "oft_blocks", "oft"),
        Parameter(".oft_diag", "oft_diag", "oft"),
        Parameter(".rescale", "rescale", "oft"),
        Parameter(".w_norm", "norm", "norm"),
        Parameter(".b_norm", "norm_bias", "norm"),
        Parameter(".on_input", "on_input", "ia3"),
        Parameter(".weight", "ia3_weight", "ia3"),
    ),
)
