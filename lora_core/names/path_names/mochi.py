"""Names of Mochi layers as diffusers has them. Names as in diffusers 0.42.1 convert_mochi_to_diffusers."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, always, names_by_rules, split

BLOCK, OTHER = "blocks.{}", "transformer_blocks.{}"

RULES = (
    Rule("x_embedder.proj", "patch_embed.proj"),
    Rule("t_embedder.mlp.0", "time_embed.timestep_embedder.linear_1"),
    Rule("t_embedder.mlp.2", "time_embed.timestep_embedder.linear_2"),
    *(Rule(f"t5_y_embedder.{name}", f"time_embed.pooler.{name}") for name in ("to_kv", "to_q", "to_out")),
    Rule("t5_yproj", "time_embed.caption_proj"),
    Rule(f"{BLOCK}.mod_x", f"{OTHER}.norm1.linear"),
    Rule(f"{BLOCK}.mod_y", f"{OTHER}.norm1_context.linear"),
    Rule(f"{BLOCK}.mod_y", f"{OTHER}.norm1_context.linear_1", alias=True),  # of the last block
    *split(f"{BLOCK}.attn.qkv_x", [f"{OTHER}.attn1.to_{name}" for name in "qkv"]),
    *split(f"{BLOCK}.attn.qkv_y", [f"{OTHER}.attn1.add_{name}_proj" for name in "qkv"]),
    *(Rule(f"{BLOCK}.attn.{name}_norm_x", f"{OTHER}.attn1.norm_{name}") for name in "qk"),
    *(Rule(f"{BLOCK}.attn.{name}_norm_y", f"{OTHER}.attn1.norm_added_{name}") for name in "qk"),
    Rule(f"{BLOCK}.attn.proj_x", f"{OTHER}.attn1.to_out.0"),
    Rule(f"{BLOCK}.attn.proj_y", f"{OTHER}.attn1.to_add_out"),
    Rule(f"{BLOCK}.mlp_x.w1", f"{OTHER}.ff.net.0.proj", swap_halves=always),
    Rule(f"{BLOCK}.mlp_x.w2", f"{OTHER}.ff.net.2"),
    Rule(f"{BLOCK}.mlp_y.w1", f"{OTHER}.ff_context.net.0.proj", swap_halves=always),
    Rule(f"{BLOCK}.mlp_y.w2", f"{OTHER}.ff_context.net.2"),
    Rule("final_layer.mod", "norm_out.linear", swap_halves=always),
    Rule("final_layer.linear", "proj_out"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """diffusers' names for a Mochi denoiser's paths."""
    return names_by_rules(RULES, shapes)
