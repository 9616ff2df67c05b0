"""Names of Krea 2 layers as diffusers has them. Names as in diffusers 0.42.1 and ComfyUI 0.29 krea2_to_diffusers."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

BLOCKS = (
    ("blocks.{}", "transformer_blocks.{}"),
    ("txtfusion.layerwise_blocks.{}", "text_fusion.layerwise_blocks.{}"),
    ("txtfusion.refiner_blocks.{}", "text_fusion.refiner_blocks.{}"),
)


def _block(own: str, other: str) -> Iterable[Rule]:
    yield from (Rule(f"{own}.attn.w{name}", f"{other}.attn.to_{name}") for name in "qkv")
    yield Rule(f"{own}.attn.wo", f"{other}.attn.to_out.0")
    yield Rule(f"{own}.attn.wo", f"{other}.attn.to_out", alias=True)  # some trainers leave the index out
    yield Rule(f"{own}.attn.gate", f"{other}.attn.to_gate")
    yield from (Rule(f"{own}.mlp.{name}", f"{other}.ff.{name}") for name in ("gate", "up", "down"))
    yield Rule(f"{own}.attn.qknorm.qnorm", f"{other}.attn.norm_q")
    yield Rule(f"{own}.attn.qknorm.knorm", f"{other}.attn.norm_k")
    yield Rule(f"{own}.prenorm", f"{other}.norm1")
    yield Rule(f"{own}.postnorm", f"{other}.norm2")


RULES = (
    *(rule for own, other in BLOCKS for rule in _block(own, other)),
    Rule("first", "img_in"),
    Rule("tmlp.0", "time_embed.linear_1"),
    Rule("tmlp.2", "time_embed.linear_2"),
    Rule("tproj.1", "time_mod_proj"),
    Rule("txtmlp.0", "txt_in.norm"),
    Rule("txtmlp.1", "txt_in.linear_1"),
    Rule("txtmlp.3", "txt_in.linear_2"),
    Rule("txtfusion.projector", "text_fusion.projector"),
    Rule("last.linear", "final_layer.linear"),
    Rule("last.norm", "final_layer.norm"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Krea 2 denoiser's paths."""
    return names_by_rules(RULES, shapes)
