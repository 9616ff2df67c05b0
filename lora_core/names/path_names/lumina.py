"""Names of Lumina2 and Z-Image layers: split q, k, v and projections, as diffusers and the trainers write them.

Names as in diffusers 0.42.1; Lumina2 has fewer keys and values than queries, so rows come from the weight's shape.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, aliases, names_by_rules, split

BLOCKS = ("layers.{}", "noise_refiner.{}", "context_refiner.{}")


def _block(block: str, attention: str) -> Iterable[Rule]:
    yield from split(f"{block}.attention.qkv", [f"{block}.{attention}.to_{name}" for name in "qkv"])
    yield Rule(f"{block}.attention.out", f"{block}.{attention}.to_out.0")
    yield Rule(f"{block}.attention.q_norm", f"{block}.{attention}.norm_q")
    yield Rule(f"{block}.attention.k_norm", f"{block}.{attention}.norm_k")


def _block_of_lumina(block: str) -> Iterable[Rule]:
    yield from _block(block, "attn")
    for own, other in (("w1", "linear_1"), ("w2", "linear_2"), ("w3", "linear_3")):
        yield Rule(f"{block}.feed_forward.{own}", f"{block}.feed_forward.{other}")
    yield Rule(f"{block}.adaLN_modulation.1", f"{block}.norm1.linear")
    # A context refiner is not modulated, so diffusers has its norm one level higher.
    yield Rule(f"{block}.attention_norm1", f"{block}.norm1" if block.startswith("context") else f"{block}.norm1.norm")
    yield Rule(f"{block}.attention_norm2", f"{block}.norm2")


LUMINA = (
    *(rule for block in BLOCKS for rule in _block_of_lumina(block)),
    Rule("cap_embedder.0", "time_caption_embed.caption_embedder.0"),
    Rule("cap_embedder.1", "time_caption_embed.caption_embedder.1"),
    Rule("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1"),
    Rule("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2"),
    Rule("final_layer.adaLN_modulation.1", "norm_out.linear_1"),
    Rule("final_layer.linear", "norm_out.linear_2"),
)

# Z-Image, whose outer layers diffusers numbers by patch size.
Z_IMAGE = (
    *(rule for block in BLOCKS for rule in _block(block, "attention")),
    Rule("x_embedder", "all_x_embedder.2-1"),
    Rule("final_layer.linear", "all_final_layer.2-1.linear"),
    Rule("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
)

SPLIT_UNDERSCORES = tuple(  # some trainers write "to.q"
    rule
    for block in BLOCKS
    for attention in ("attention", "attn")
    for rule in split(f"{block}.attention.qkv", [f"{block}.{attention}.to.{name}" for name in "qkv"])
)
RULES = (*LUMINA, *aliases(Z_IMAGE), *aliases(SPLIT_UNDERSCORES))
RULES_OF_Z_IMAGE = (*Z_IMAGE, *aliases(LUMINA), *aliases(SPLIT_UNDERSCORES))


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for the paths of a Lumina2 or Z-Image denoiser."""
    return names_by_rules(RULES_OF_Z_IMAGE if "x_pad_token" in shapes else RULES, shapes)
