"""Names of Wan layers as diffusers has them. Names as in diffusers 0.42.1 convert_wan_transformer_to_diffusers."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, first_half, names_by_rules, second_half

EMBEDDER = "condition_embedder"
FACE = "face_adapter.fuser_blocks.{}"


def _block(block: str) -> Iterable[Rule]:
    for own, other in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        yield from (Rule(f"{block}.{own}.{name}", f"{block}.{other}.to_{name}") for name in "qkv")
        yield Rule(f"{block}.{own}.o", f"{block}.{other}.to_out.0")
        yield from (Rule(f"{block}.{own}.norm_{name}", f"{block}.{other}.norm_{name}") for name in "qk")
    yield Rule(f"{block}.cross_attn.k_img", f"{block}.attn2.add_k_proj")
    yield Rule(f"{block}.cross_attn.v_img", f"{block}.attn2.add_v_proj")
    yield Rule(f"{block}.cross_attn.norm_k_img", f"{block}.attn2.norm_added_k")
    yield Rule(f"{block}.norm3", f"{block}.norm2")
    yield Rule(f"{block}.ffn.0", f"{block}.ffn.net.0.proj")
    yield Rule(f"{block}.ffn.2", f"{block}.ffn.net.2")
    yield Rule(f"{block}.modulation", f"{block}.scale_shift_table")
    yield Rule(f"{block}.modulation", block, alias=True)  # extracted LoRAs: "blocks.0.diff_m"
    # VACE
    yield Rule(f"{block}.before_proj", f"{block}.proj_in")
    yield Rule(f"{block}.after_proj", f"{block}.proj_out")


RULES = (
    *_block("blocks.{}"),
    *_block("vace_blocks.{}"),
    Rule("time_embedding.0", f"{EMBEDDER}.time_embedder.linear_1"),
    Rule("time_embedding.2", f"{EMBEDDER}.time_embedder.linear_2"),
    Rule("time_projection.1", f"{EMBEDDER}.time_proj"),
    Rule("text_embedding.0", f"{EMBEDDER}.text_embedder.linear_1"),
    Rule("text_embedding.2", f"{EMBEDDER}.text_embedder.linear_2"),
    Rule("img_emb.proj.0", f"{EMBEDDER}.image_embedder.norm1"),
    Rule("img_emb.proj.1", f"{EMBEDDER}.image_embedder.ff.net.0.proj"),
    Rule("img_emb.proj.3", f"{EMBEDDER}.image_embedder.ff.net.2"),
    Rule("img_emb.proj.4", f"{EMBEDDER}.image_embedder.norm2"),
    # Wan Animate: keys and values of the face in one layer
    Rule(f"{FACE}.linear1_q", "face_adapter.{}.to_q"),
    Rule(f"{FACE}.linear1_kv", "face_adapter.{}.to_k", first_half),
    Rule(f"{FACE}.linear1_kv", "face_adapter.{}.to_v", second_half),
    Rule(f"{FACE}.linear2", "face_adapter.{}.to_out"),
    *(Rule(f"{FACE}.{name}_norm", f"face_adapter.{{}}.norm_{name}") for name in "qk"),
    Rule("head.head", "proj_out"),
    Rule("head.modulation", "scale_shift_table"),
    Rule("head.modulation", "head", alias=True),  # extracted LoRAs: "head.diff_m"
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Wan denoiser's paths."""
    return names_by_rules(RULES, shapes)
