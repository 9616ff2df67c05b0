"""Names of SD3 layers as diffusers has them: split q, k, v, and two modulations with their halves swapped.

Rows and swapped halves as in diffusers 0.42.1 convert_sd3_transformer_checkpoint_to_diffusers and ComfyUI 0.33
mmdit_to_diffusers.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, always, names_by_rules, split

X, CONTEXT, BLOCK = "joint_blocks.{}.x_block", "joint_blocks.{}.context_block", "transformer_blocks.{}"


def _is_last(shape: Shape) -> bool:
    """The last context block only shifts and scales: its modulation has two parts, not six."""
    return shape[0] == 2 * shape[1]


RULES = (
    *split(f"{X}.attn.qkv", [f"{BLOCK}.attn.to_{name}" for name in "qkv"]),
    *split(f"{X}.attn2.qkv", [f"{BLOCK}.attn2.to_{name}" for name in "qkv"]),
    *split(f"{CONTEXT}.attn.qkv", [f"{BLOCK}.attn.add_{name}_proj" for name in "qkv"]),
    Rule(f"{X}.attn.proj", f"{BLOCK}.attn.to_out.0"),
    Rule(f"{X}.attn2.proj", f"{BLOCK}.attn2.to_out.0"),
    Rule(f"{CONTEXT}.attn.proj", f"{BLOCK}.attn.to_add_out"),
    Rule(f"{X}.attn.ln_q", f"{BLOCK}.attn.norm_q"),
    Rule(f"{X}.attn.ln_k", f"{BLOCK}.attn.norm_k"),
    Rule(f"{X}.attn2.ln_q", f"{BLOCK}.attn2.norm_q"),
    Rule(f"{X}.attn2.ln_k", f"{BLOCK}.attn2.norm_k"),
    Rule(f"{CONTEXT}.attn.ln_q", f"{BLOCK}.attn.norm_added_q"),
    Rule(f"{CONTEXT}.attn.ln_k", f"{BLOCK}.attn.norm_added_k"),
    Rule(f"{X}.mlp.fc1", f"{BLOCK}.ff.net.0.proj"),
    Rule(f"{X}.mlp.fc2", f"{BLOCK}.ff.net.2"),
    Rule(f"{CONTEXT}.mlp.fc1", f"{BLOCK}.ff_context.net.0.proj"),
    Rule(f"{CONTEXT}.mlp.fc2", f"{BLOCK}.ff_context.net.2"),
    Rule(f"{X}.adaLN_modulation.1", f"{BLOCK}.norm1.linear"),
    Rule(f"{CONTEXT}.adaLN_modulation.1", f"{BLOCK}.norm1_context.linear", None, _is_last),
    Rule("x_embedder.proj", "pos_embed.proj"),
    Rule("pos_embed", "pos_embed.pos_embed"),
    Rule("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    Rule("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    Rule("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    Rule("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    Rule("final_layer.linear", "proj_out"),
    Rule("final_layer.adaLN_modulation.1", "norm_out.linear", None, always),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for an SD3 denoiser's paths."""
    return names_by_rules(RULES, shapes)
