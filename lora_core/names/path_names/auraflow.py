"""Names of AuraFlow layers as diffusers has them.

Names and swapped halves as in diffusers 0.42.1 convert_auraflow_transformer_checkpoint_to_diffusers.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, always, names_by_rules

DOUBLE, JOINT_BLOCK = "double_layers.{}", "joint_transformer_blocks.{}"
SINGLE, SINGLE_BLOCK = "single_layers.{}", "single_transformer_blocks.{}"
FEED_FORWARD = (("c_fc1", "linear_1"), ("c_fc2", "linear_2"), ("c_proj", "out_projection"))

RULES = (
    *(Rule(f"{DOUBLE}.attn.w2{name}", f"{JOINT_BLOCK}.attn.to_{name}") for name in "qkv"),
    *(Rule(f"{DOUBLE}.attn.w1{name}", f"{JOINT_BLOCK}.attn.add_{name}_proj") for name in "qkv"),
    *(Rule(f"{SINGLE}.attn.w1{name}", f"{SINGLE_BLOCK}.attn.to_{name}") for name in "qkv"),
    Rule(f"{DOUBLE}.attn.w2o", f"{JOINT_BLOCK}.attn.to_out.0"),
    Rule(f"{DOUBLE}.attn.w1o", f"{JOINT_BLOCK}.attn.to_add_out"),
    Rule(f"{SINGLE}.attn.w1o", f"{SINGLE_BLOCK}.attn.to_out.0"),
    *(Rule(f"{DOUBLE}.mlpX.{own}", f"{JOINT_BLOCK}.ff.{other}") for own, other in FEED_FORWARD),
    *(Rule(f"{DOUBLE}.mlpC.{own}", f"{JOINT_BLOCK}.ff_context.{other}") for own, other in FEED_FORWARD),
    *(Rule(f"{SINGLE}.mlp.{own}", f"{SINGLE_BLOCK}.ff.{other}") for own, other in FEED_FORWARD),
    Rule(f"{DOUBLE}.modX.1", f"{JOINT_BLOCK}.norm1.linear"),
    Rule(f"{DOUBLE}.modC.1", f"{JOINT_BLOCK}.norm1_context.linear"),
    Rule(f"{SINGLE}.modCX.1", f"{SINGLE_BLOCK}.norm1.linear"),
    Rule("positional_encoding", "pos_embed.pos_embed"),
    Rule("init_x_linear", "pos_embed.proj"),
    Rule("cond_seq_linear", "context_embedder"),
    Rule("t_embedder.mlp.0", "time_step_proj.linear_1"),
    Rule("t_embedder.mlp.2", "time_step_proj.linear_2"),
    Rule("final_linear", "proj_out"),
    Rule("modF.1", "norm_out.linear", None, always),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for an AuraFlow denoiser's paths."""
    return names_by_rules(RULES, shapes)
