"""Names of Wan layers as diffusers has them. Names as in diffusers 0.42.1 convert_wan_to_diffusers."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

BLOCK = "blocks.{}"
EMBEDDER = "condition_embedder"

RULES = (
    *(Rule(f"{BLOCK}.self_attn.{name}", f"{BLOCK}.attn1.to_{name}") for name in "qkv"),
    *(Rule(f"{BLOCK}.cross_attn.{name}", f"{BLOCK}.attn2.to_{name}") for name in "qkv"),
    Rule(f"{BLOCK}.self_attn.o", f"{BLOCK}.attn1.to_out.0"),
    Rule(f"{BLOCK}.cross_attn.o", f"{BLOCK}.attn2.to_out.0"),
    Rule(f"{BLOCK}.cross_attn.k_img", f"{BLOCK}.attn2.add_k_proj"),
    Rule(f"{BLOCK}.cross_attn.v_img", f"{BLOCK}.attn2.add_v_proj"),
    Rule(f"{BLOCK}.self_attn.norm_q", f"{BLOCK}.attn1.norm_q"),
    Rule(f"{BLOCK}.self_attn.norm_k", f"{BLOCK}.attn1.norm_k"),
    Rule(f"{BLOCK}.cross_attn.norm_q", f"{BLOCK}.attn2.norm_q"),
    Rule(f"{BLOCK}.cross_attn.norm_k", f"{BLOCK}.attn2.norm_k"),
    Rule(f"{BLOCK}.cross_attn.norm_k_img", f"{BLOCK}.attn2.norm_added_k"),
    Rule(f"{BLOCK}.norm3", f"{BLOCK}.norm2"),
    Rule(f"{BLOCK}.ffn.0", f"{BLOCK}.ffn.net.0.proj"),
    Rule(f"{BLOCK}.ffn.2", f"{BLOCK}.ffn.net.2"),
    Rule("time_embedding.0", f"{EMBEDDER}.time_embedder.linear_1"),
    Rule("time_embedding.2", f"{EMBEDDER}.time_embedder.linear_2"),
    Rule("time_projection.1", f"{EMBEDDER}.time_proj"),
    Rule("text_embedding.0", f"{EMBEDDER}.text_embedder.linear_1"),
    Rule("text_embedding.2", f"{EMBEDDER}.text_embedder.linear_2"),
    Rule("img_emb.proj.0", f"{EMBEDDER}.image_embedder.norm1"),
    Rule("img_emb.proj.1", f"{EMBEDDER}.image_embedder.ff.net.0.proj"),
    Rule("img_emb.proj.3", f"{EMBEDDER}.image_embedder.ff.net.2"),
    Rule("img_emb.proj.4", f"{EMBEDDER}.image_embedder.norm2"),
    Rule("head.head", "proj_out"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Wan denoiser's paths."""
    return names_by_rules(RULES, shapes)
