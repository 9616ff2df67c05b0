"""Names of LTX-Video and LTX-2 layers as diffusers has them.

Names as in diffusers 0.42.1 convert_ltx_transformer_checkpoint_to_diffusers and its converter of LTX-2 LoRAs.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

BLOCK = "transformer_blocks.{}"
ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
MODULATIONS: Mapping[str, str] = {
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
}
CONNECTOR_LAYERS = (
    *((f"attn1.to_{name}", f"attn1.to_{name}") for name in ("q", "k", "v", "out.0")),
    *((f"attn1.{name}_norm", f"attn1.norm_{name}") for name in "qk"),
    ("ff.net.0.proj", "ff.net.0.proj"),
    ("ff.net.2", "ff.net.2"),
)
MODULATION_LAYERS = ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")


def _connector(stream: str) -> Iterable[Rule]:
    """What prepares the text: in diffusers no part of the denoiser, but a model of its own."""
    own, other = f"{stream}_embeddings_connector", f"connectors.{stream}_connector"
    yield Rule(f"{own}.learnable_registers", f"{other}.learnable_registers")
    for own_layer, layer in CONNECTOR_LAYERS:
        yield Rule(f"{own}.transformer_1d_blocks.{{}}.{own_layer}", f"{other}.transformer_blocks.{{}}.{layer}")


RULES = (
    Rule("patchify_proj", "proj_in"),
    Rule("audio_patchify_proj", "audio_proj_in"),
    *(Rule(f"{own}.{layer}", f"{other}.{layer}") for own, other in MODULATIONS.items() for layer in MODULATION_LAYERS),
    *(Rule(f"{BLOCK}.{name}.q_norm", f"{BLOCK}.{name}.norm_q") for name in ATTENTIONS),
    *(Rule(f"{BLOCK}.{name}.k_norm", f"{BLOCK}.{name}.norm_k") for name in ATTENTIONS),
    *_connector("video"),
    *_connector("audio"),
    Rule(f"{BLOCK}.scale_shift_table_a2v_ca_video", f"{BLOCK}.video_a2v_cross_attn_scale_shift_table"),
    Rule(f"{BLOCK}.scale_shift_table_a2v_ca_audio", f"{BLOCK}.audio_a2v_cross_attn_scale_shift_table"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for an LTX-Video or LTX-2 denoiser's paths."""
    return names_by_rules(RULES, shapes)
