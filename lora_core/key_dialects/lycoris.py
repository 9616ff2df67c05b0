"""LyCORIS: the parameters of its algorithms, on kohya's names or behind its own "lycoris_" prefix."""

from .dialect import UNDERSCORES, Dialect, Parameter, Prefix

DIALECT = Dialect(
    name="lycoris",
    prefixes=(Prefix("lycoris_", ("unet",), UNDERSCORES),),
    parameters=(
        Parameter(".dora_scale", "magnitude", "dora"),
        *(Parameter(f".hada_{name}", name, "loha") for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
        *(Parameter(f".lokr_{name}", name, "lokr") for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
        *(Parameter(f".{name}.weight", name, "glora") for name in ("a1", "a2", "b1", "b2", "bm")),
        Parameter(".oft_blocks", "blocks", "oft"),
        Parameter(".oft_diag", "blocks", "oft"),
        Parameter(".rescale", "rescale", "oft"),
        Parameter(".w_norm", "norm", "norm"),
        Parameter(".b_norm", "norm_bias", "norm"),
        Parameter(".on_input", "on_input", "ia3"),
    ),
)
