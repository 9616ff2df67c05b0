"""Names of Lumina2 and Z-Image layers: split q, k, v and projections, as diffusers and the trainers write them.

Names as in diffusers 0.42.1; Lumina2 has fewer keys and values than queries, so rows come from the weight's shape.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules, split

BLOCKS = ("layers.{}", "noise_refiner.{}", "context_refiner.{}")


def _block(block: str) -> Iterable[Rule]:
    for attention in ("attention", "attn"):
        yield from split(f"{block}.attention.qkv", [f"{block}.{attention}.to_{name}" for name in "qkv"])
        yield Rule(f"{block}.attention.out", f"{block}.{attention}.to_out.0")
        yield Rule(f"{block}.attention.q_norm", f"{block}.{attention}.norm_q")
        yield Rule(f"{block}.attention.k_norm", f"{block}.{attention}.norm_k")
    for own, other in (("w1", "linear_1"), ("w2", "linear_2"), ("w3", "linear_3")):
        yield Rule(f"{block}.feed_forward.{own}", f"{block}.feed_forward.{other}")
    yield Rule(f"{block}.adaLN_modulation.1", f"{block}.norm1.linear")


RULES = (
    *(rule for block in BLOCKS for rule in _block(block)),
    Rule("x_embedder", "all_x_embedder.2-1"),
    Rule("final_layer.linear", "all_final_layer.2-1.linear"),
    Rule("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for the paths of a Lumina2 or Z-Image denoiser."""
    return names_by_rules(RULES, shapes)
