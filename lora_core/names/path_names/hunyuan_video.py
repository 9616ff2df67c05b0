"""Names of HunyuanVideo layers that Flux does not share: Tencent's own, and diffusers' for the refiner of the text.

Names as in diffusers 0.42.1 convert_hunyuan_video_transformer_to_diffusers and ComfyUI 0.29 supported_models.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, aliases, names_by_rules, split

DOUBLE, SINGLE = "double_blocks.{}", "single_blocks.{}"
TEXT, TEXT_EMBED = "txt_in", "context_embedder.time_text_embed"
REFINER, REFINER_BLOCK = "txt_in.individual_token_refiner.blocks.{}", "context_embedder.token_refiner.refiner_blocks.{}"


def _tencent_stream(stream: str) -> Iterable[Rule]:
    block = f"{DOUBLE}.{stream}"
    yield Rule(f"{block}_attn.qkv", f"{block}_attn_qkv")
    yield from split(f"{block}_attn.qkv", [f"{block}_attn_{name}" for name in "qkv"])  # 1.5, as musubi trains it
    yield Rule(f"{block}_attn.proj", f"{block}_attn_proj")
    yield Rule(f"{block}_mlp.0", f"{block}_mlp.fc1")
    yield Rule(f"{block}_mlp.2", f"{block}_mlp.fc2")
    yield Rule(f"{block}_mod.lin", f"{block}_mod.linear")
    yield Rule(f"{block}_attn.norm.query_norm", f"{block}_attn_q_norm")
    yield Rule(f"{block}_attn.norm.key_norm", f"{block}_attn_k_norm")


TENCENT = (
    *_tencent_stream("img"),
    *_tencent_stream("txt"),
    Rule(f"{SINGLE}.modulation.lin", f"{SINGLE}.modulation.linear"),
    Rule(f"{SINGLE}.norm.query_norm", f"{SINGLE}.q_norm"),
    Rule(f"{SINGLE}.norm.key_norm", f"{SINGLE}.k_norm"),
    *(Rule(f"{name}.in_layer", f"{name}.mlp.0") for name in ("time_in", "guidance_in", f"{TEXT}.t_embedder")),
    *(Rule(f"{name}.out_layer", f"{name}.mlp.2") for name in ("time_in", "guidance_in", f"{TEXT}.t_embedder")),
    Rule(f"{TEXT}.c_embedder.in_layer", f"{TEXT}.c_embedder.linear_1"),
    Rule(f"{TEXT}.c_embedder.out_layer", f"{TEXT}.c_embedder.linear_2"),
    Rule(f"{REFINER}.self_attn.qkv", f"{REFINER}.self_attn_qkv"),
    Rule(f"{REFINER}.self_attn.proj", f"{REFINER}.self_attn_proj"),
    Rule(f"{REFINER}.mlp.0", f"{REFINER}.mlp.fc1"),
    Rule(f"{REFINER}.mlp.2", f"{REFINER}.mlp.fc2"),
)

DIFFUSERS = (
    Rule("img_in.proj", "x_embedder.proj"),
    Rule(f"{TEXT}.input_embedder", "context_embedder.proj_in"),
    Rule(f"{TEXT}.t_embedder.in_layer", f"{TEXT_EMBED}.timestep_embedder.linear_1"),
    Rule(f"{TEXT}.t_embedder.out_layer", f"{TEXT_EMBED}.timestep_embedder.linear_2"),
    Rule(f"{TEXT}.c_embedder.in_layer", f"{TEXT_EMBED}.text_embedder.linear_1"),
    Rule(f"{TEXT}.c_embedder.out_layer", f"{TEXT_EMBED}.text_embedder.linear_2"),
    *split(f"{REFINER}.self_attn.qkv", [f"{REFINER_BLOCK}.attn.to_{name}" for name in "qkv"]),
    Rule(f"{REFINER}.self_attn.proj", f"{REFINER_BLOCK}.attn.to_out.0"),
    Rule(f"{REFINER}.mlp.0", f"{REFINER_BLOCK}.ff.net.0.proj"),
    Rule(f"{REFINER}.mlp.2", f"{REFINER_BLOCK}.ff.net.2"),
    Rule(f"{REFINER}.norm1", f"{REFINER_BLOCK}.norm1"),
    Rule(f"{REFINER}.norm2", f"{REFINER_BLOCK}.norm2"),
    Rule(f"{REFINER}.adaLN_modulation.1", f"{REFINER_BLOCK}.norm_out.linear"),
)

RULES = (*aliases(TENCENT), *DIFFUSERS)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for the paths that only HunyuanVideo has, and Tencent's names for the rest."""
    return names_by_rules(RULES, shapes)
