"""Names of Flux and HunyuanVideo layers: split q, k, v as diffusers has them, and Tencent's spellings.

Rows and swapped halves as in diffusers 0.42.1 lora_conversion_utils and ComfyUI 0.33 flux_to_diffusers.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, always, names_by_rules, split

DOUBLE, BLOCK = "double_blocks.{}", "transformer_blocks.{}"
SINGLE, SINGLE_BLOCK = "single_blocks.{}", "single_transformer_blocks.{}"


RULES = (
    *split(f"{DOUBLE}.img_attn.qkv", [f"{BLOCK}.attn.to_{name}" for name in "qkv"]),
    *split(f"{DOUBLE}.txt_attn.qkv", [f"{BLOCK}.attn.add_{name}_proj" for name in "qkv"]),
    Rule(f"{DOUBLE}.img_attn.proj", f"{BLOCK}.attn.to_out.0"),
    Rule(f"{DOUBLE}.txt_attn.proj", f"{BLOCK}.attn.to_add_out"),
    Rule(f"{DOUBLE}.img_mlp.0", f"{BLOCK}.ff.net.0.proj"),
    Rule(f"{DOUBLE}.img_mlp.2", f"{BLOCK}.ff.net.2"),
    Rule(f"{DOUBLE}.txt_mlp.0", f"{BLOCK}.ff_context.net.0.proj"),
    Rule(f"{DOUBLE}.txt_mlp.2", f"{BLOCK}.ff_context.net.2"),
    Rule(f"{DOUBLE}.img_mod.lin", f"{BLOCK}.norm1.linear"),
    Rule(f"{DOUBLE}.txt_mod.lin", f"{BLOCK}.norm1_context.linear"),
    Rule(f"{DOUBLE}.img_attn.norm.query_norm", f"{BLOCK}.attn.norm_q"),
    Rule(f"{DOUBLE}.img_attn.norm.key_norm", f"{BLOCK}.attn.norm_k"),
    Rule(f"{DOUBLE}.txt_attn.norm.query_norm", f"{BLOCK}.attn.norm_added_q"),
    Rule(f"{DOUBLE}.txt_attn.norm.key_norm", f"{BLOCK}.attn.norm_added_k"),
    Rule(f"{SINGLE}.linear1", f"{SINGLE_BLOCK}.attn.to_q", lambda shape: (0, shape[1])),
    Rule(f"{SINGLE}.linear1", f"{SINGLE_BLOCK}.attn.to_k", lambda shape: (shape[1], 2 * shape[1])),
    Rule(f"{SINGLE}.linear1", f"{SINGLE_BLOCK}.attn.to_v", lambda shape: (2 * shape[1], 3 * shape[1])),
    Rule(f"{SINGLE}.linear1", f"{SINGLE_BLOCK}.proj_mlp", lambda shape: (3 * shape[1], shape[0])),
    Rule(f"{SINGLE}.linear2", f"{SINGLE_BLOCK}.proj_out"),
    Rule(f"{SINGLE}.modulation.lin", f"{SINGLE_BLOCK}.norm.linear"),
    Rule(f"{SINGLE}.norm.query_norm", f"{SINGLE_BLOCK}.attn.norm_q"),
    Rule(f"{SINGLE}.norm.key_norm", f"{SINGLE_BLOCK}.attn.norm_k"),
    Rule("img_in", "x_embedder"),
    Rule("txt_in", "context_embedder"),
    Rule("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    Rule("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    Rule("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    Rule("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    Rule("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    Rule("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    Rule("final_layer.linear", "proj_out"),
    Rule("final_layer.adaLN_modulation.1", "norm_out.linear", None, always),
    # Tencent's names for HunyuanVideo, which diffusion-pipe and musubi-tuner write too.
    Rule(f"{DOUBLE}.img_attn.qkv", f"{DOUBLE}.img_attn_qkv"),
    Rule(f"{DOUBLE}.txt_attn.qkv", f"{DOUBLE}.txt_attn_qkv"),
    Rule(f"{DOUBLE}.img_attn.proj", f"{DOUBLE}.img_attn_proj"),
    Rule(f"{DOUBLE}.txt_attn.proj", f"{DOUBLE}.txt_attn_proj"),
    Rule(f"{DOUBLE}.img_mlp.0", f"{DOUBLE}.img_mlp.fc1"),
    Rule(f"{DOUBLE}.img_mlp.2", f"{DOUBLE}.img_mlp.fc2"),
    Rule(f"{DOUBLE}.txt_mlp.0", f"{DOUBLE}.txt_mlp.fc1"),
    Rule(f"{DOUBLE}.txt_mlp.2", f"{DOUBLE}.txt_mlp.fc2"),
    Rule(f"{DOUBLE}.img_mod.lin", f"{DOUBLE}.img_mod.linear"),
    Rule(f"{DOUBLE}.txt_mod.lin", f"{DOUBLE}.txt_mod.linear"),
    Rule(f"{SINGLE}.modulation.lin", f"{SINGLE}.modulation.linear"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Flux-like denoiser's paths.

    Example: double_blocks.0.img_attn.qkv -> transformer_blocks.0.attn.to_q, its first third
    """
    return names_by_rules(RULES, shapes)
