"""Names of Flux layers (also Flux.2, Chroma and HunyuanVideo) as diffusers has them, and as XLabs and USO write them.

Rows and swapped halves as in diffusers 0.42.1 single_file_utils and ComfyUI 0.33 flux_to_diffusers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .place import Name, Shape
from .rules import Rule, aliases, always, names_by_rules, split

DOUBLE, BLOCK = "double_blocks.{}", "transformer_blocks.{}"
SINGLE, SINGLE_BLOCK = "single_blocks.{}", "single_transformer_blocks.{}"
GUIDANCE = "distilled_guidance_layer"
SINGLE_ATTENTION = ("processor.qkv_lora", "processor.qkv", "linear1_qkv")  # the last is USO's, as ComfyUI respells it


def _attention(shape: Shape) -> tuple[int, int]:
    """The rows of q, k and v in a layer that has the mlp behind them."""
    return 0, 3 * shape[1]


FLUX_1 = (
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
)

# Diffusers keeps the single blocks of Flux.2 fused, and it has one modulation for all blocks.
FLUX_2 = (
    Rule(f"{DOUBLE}.img_mlp.0", f"{BLOCK}.ff.linear_in"),
    Rule(f"{DOUBLE}.img_mlp.2", f"{BLOCK}.ff.linear_out"),
    Rule(f"{DOUBLE}.txt_mlp.0", f"{BLOCK}.ff_context.linear_in"),
    Rule(f"{DOUBLE}.txt_mlp.2", f"{BLOCK}.ff_context.linear_out"),
    Rule(f"{SINGLE}.linear1", f"{SINGLE_BLOCK}.attn.to_qkv_mlp_proj"),
    Rule(f"{SINGLE}.linear2", f"{SINGLE_BLOCK}.attn.to_out"),
    Rule("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    Rule("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    Rule("single_stream_modulation.lin", "single_stream_modulation.linear"),
    Rule("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
    Rule("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
    Rule("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
    Rule("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
)

CHROMA = (
    Rule(f"{GUIDANCE}.layers.{{}}.in_layer", f"{GUIDANCE}.layers.{{}}.linear_1"),
    Rule(f"{GUIDANCE}.layers.{{}}.out_layer", f"{GUIDANCE}.layers.{{}}.linear_2"),
)

# XLabs counts the streams: 1 is the image's, 2 the text's.
XLABS = (
    Rule(f"{DOUBLE}.img_attn.qkv", f"{DOUBLE}.processor.qkv_lora1"),
    Rule(f"{DOUBLE}.txt_attn.qkv", f"{DOUBLE}.processor.qkv_lora2"),
    Rule(f"{DOUBLE}.img_attn.proj", f"{DOUBLE}.processor.proj_lora1"),
    Rule(f"{DOUBLE}.txt_attn.proj", f"{DOUBLE}.processor.proj_lora2"),
    # "_lora" is also the beginning of diffusers' parameter "_lora.down.weight", which leaves the names without it.
    *(Rule(f"{SINGLE}.linear1", f"{SINGLE}.{name}", _attention) for name in SINGLE_ATTENTION),
    *(Rule(f"{SINGLE}.linear2", f"{SINGLE}.{name}") for name in ("processor.proj_lora", "processor.proj")),
)

RESPELLED = frozenset(rule.own for rule in FLUX_2)
RULES = (*FLUX_1, *CHROMA, *aliases(FLUX_2), *aliases(XLABS))
RULES_OF_FLUX_2 = (*FLUX_2, *(replace(rule, alias=rule.own in RESPELLED) for rule in FLUX_1), *aliases(XLABS))


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Flux-like denoiser's paths.

    Example: double_blocks.0.img_attn.qkv -> transformer_blocks.0.attn.to_q, its first third
    """
    return names_by_rules(RULES_OF_FLUX_2 if "single_stream_modulation.lin" in shapes else RULES, shapes)
