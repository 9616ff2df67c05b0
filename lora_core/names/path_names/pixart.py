"""Names of PixArt layers as diffusers has them: split q, k, v, and split k, v where they read the text.

Names and rows as in ComfyUI 0.33 pixart_to_diffusers; Alpha and Sigma are named alike.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, first_half, names_by_rules, second_half, split

OWN, BLOCK = "blocks.{}", "transformer_blocks.{}"
EMBEDDERS = (
    ("t_embedder", "timestep_embedder"),
    ("csize_embedder", "resolution_embedder"),
    ("ar_embedder", "aspect_ratio_embedder"),
)

RULES = (
    *split(f"{OWN}.attn.qkv", [f"{BLOCK}.attn1.to_{name}" for name in "qkv"]),
    Rule(f"{OWN}.attn.proj", f"{BLOCK}.attn1.to_out.0"),
    Rule(f"{OWN}.cross_attn.q_linear", f"{BLOCK}.attn2.to_q"),
    Rule(f"{OWN}.cross_attn.kv_linear", f"{BLOCK}.attn2.to_k", first_half),
    Rule(f"{OWN}.cross_attn.kv_linear", f"{BLOCK}.attn2.to_v", second_half),
    Rule(f"{OWN}.cross_attn.proj", f"{BLOCK}.attn2.to_out.0"),
    Rule(f"{OWN}.mlp.fc1", f"{BLOCK}.ff.net.0.proj"),
    Rule(f"{OWN}.mlp.fc2", f"{BLOCK}.ff.net.2"),
    Rule(f"{OWN}.scale_shift_table", f"{BLOCK}.scale_shift_table"),
    *(Rule(f"{own}.mlp.0", f"adaln_single.emb.{other}.linear_1") for own, other in EMBEDDERS),
    *(Rule(f"{own}.mlp.2", f"adaln_single.emb.{other}.linear_2") for own, other in EMBEDDERS),
    Rule("t_block.1", "adaln_single.linear"),
    Rule("x_embedder.proj", "pos_embed.proj"),
    Rule("y_embedder.y_embedding", "caption_projection.y_embedding", alias=True),
    Rule("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
    Rule("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
    Rule("final_layer.linear", "proj_out"),
    Rule("final_layer.scale_shift_table", "scale_shift_table"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a PixArt denoiser's paths."""
    return names_by_rules(RULES, shapes)
