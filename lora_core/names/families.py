"""Recognises the model family of a denoiser, or of an adapter file, by names and widths that only it has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

SD_KEY = "sd-context-"  # followed by the width of the text that the UNet reads
Widths = tuple[int, int]  # (outputs, inputs) of a layer; 0 where a file does not tell


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its name for people, and a key that is equal for families taking each other's adapters."""

    name: str
    key: str  # "" when the family is not known

    @property
    def known(self) -> bool:
        """Whether the family was recognised at all."""
        return bool(self.key)

    @property
    def is_stable_diffusion(self) -> bool:
        """Whether its denoiser is a UNet of Stable Diffusion's kind."""
        return self.key.startswith(SD_KEY)

    def differs_from(self, other: "Family") -> bool:
        """True only when both are known and can't share adapters."""
        return self.known and other.known and self.key != other.key


UNKNOWN_FAMILY = Family("an unknown family", "")


@dataclass(frozen=True, slots=True)
class Signature:
    """Layer names that one family alone has, searched in names flattened with underscores."""

    family: Family
    name: re.Pattern[str]
    inputs: int | None = None  # input width that the layer must have where names alone don't tell


def _signature(name: str, pattern: str, inputs: int | None = None, *, key: str = "") -> Signature:
    return Signature(Family(name, key or name), re.compile(pattern), inputs)


# First match wins: a family that shares names with another stands before the one that has nothing of its own.
SIGNATURES: tuple[Signature, ...] = (
    _signature("HunyuanVideo", r"_token_refiner_|^double_blocks_\d+_(?:img|txt)_mlp_fc[12]"),
    _signature("HunyuanVideo", r"^single_(?:transformer_)?blocks_3[89]_", 3072),  # Flux.1 ends at 37, in the same width
    _signature("Flux.2", r"^(?:double|single)_stream_modulation|^single_transformer_blocks_\d+_attn_to_qkv_mlp"),
    _signature("Flux.2", r"^double_blocks_\d+_img_attn", 6144),
    _signature("Flux.2", r"^double_blocks_\d+_img_attn", 4096),
    _signature("Flux.2", r"^double_blocks_\d+_img_mlp_2$", 9216),
    _signature("AuraFlow", r"^double_layers_\d+_|^joint_transformer_blocks_\d+_|^single_transformer_blocks_\d+_ff_"),
    _signature("Chroma", r"^distilled_guidance_layer", key="flux"),
    _signature("Flux.1", r"^(?:double|single)_blocks_\d+_(?:img_|txt_|linear[12]|modulation|processor)", key="flux"),
    _signature("Flux.1", r"^single_transformer_blocks_\d+_(?:attn_to_|proj_mlp|proj_out|norm)", 3072, key="flux"),
    _signature("Qwen-Image", r"^transformer_blocks_\d+_(?:img|txt)_(?:mlp|mod)"),
    _signature("SD3", r"^joint_blocks_\d+_|^transformer_blocks_\d+_norm1_context"),
    _signature("SD3", r"^transformer_blocks_\d+_attn_add_[qkv]_proj$", 1536),
    _signature("SD3", r"^transformer_blocks_\d+_attn_add_[qkv]_proj$", 2432),
    _signature("PixArt", r"^blocks_\d+_cross_attn_kv_linear|^adaln_single_.*resolution_embedder"),
    _signature("PixArt", r"^transformer_blocks_\d+_attn[12]_to_[qkv]$", 1152),
    _signature("Krea 2", r"^blocks_\d+_attn_w[qkvo]$|^txtfusion_|^text_fusion_|^transformer_blocks_\d+_attn_to_gate$"),
    _signature("Anima", r"^llm_adapter_|^text_conditioner_", key="cosmos"),
    _signature("Cosmos-Predict2 or Anima", r"^blocks_\d+_(?:self|cross)_attn_(?:[qkv]|output)_proj$", key="cosmos"),
    _signature("Kandinsky 5", r"^(?:visual|text)_transformer_blocks_\d+_"),
    _signature("HiDream", r"^(?:double|single)_stream_blocks_\d+_block_"),
    _signature("ACE-Step 1.5", r"^(?:decoder_)?layers_\d+_cross_attn_(?:[qkvo]_proj|to_[qkv])$"),
    _signature("Wan", r"^blocks_\d+_(?:self_attn_[qkvo]$|cross_attn_[qkvo]$|ffn_\d|attn[12]_(?:to|add)_)"),
    _signature("LTX-2", r"^transformer_blocks_\d+_(?:audio_|video_to_audio_)"),
    _signature("LTX-Video", r"^transformer_blocks_\d+_attn[12]_to_[qkv]$", 2048),
    _signature("Z-Image", r"^layers_\d+_attention_(?:qkv|out|to_[qkv]|to_out_0)$", 3840),
    _signature("Lumina2", r"^layers_\d+_(?:attention_(?:qkv|out)|attn_to_[qkv])$", 2304),
)

# Stable Diffusion generations share their names; the width of the text that attn2.to_k reads tells them apart.
SD_NAMES = re.compile(r"^(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_")
SD_CONTEXT = re.compile(r"_attn2(?:_processor)?_to_[kv]$")
SDXL_NAMES = re.compile(
    r"(?:input_blocks_[78]|middle_block)_1_transformer_blocks_[1-9]_|mid_block_attentions_0_transformer_blocks_[1-9]_"
)
CONTEXT_WIDTHS: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 1280: "the SDXL refiner", 2048: "SDXL"}


def recognise(layers: Mapping[str, Widths]) -> Family:
    """The family that a set of layers belongs to, UNKNOWN_FAMILY if none is told.

    Args:
        layers: layer name (dotted or underscored, no prefix before it) -> (outputs, inputs).
    """
    flat = {name.replace(".", "_"): widths for name, widths in layers.items()}
    for signature in SIGNATURES:
        for name, (_, inputs) in flat.items():
            if signature.inputs in (None, inputs) and signature.name.search(name):
                return signature.family
    return _stable_diffusion(flat)


def _stable_diffusion(flat: Mapping[str, Widths]) -> Family:
    if not any(SD_NAMES.search(name) for name in flat):
        return UNKNOWN_FAMILY
    for name, (_, inputs) in flat.items():
        if inputs and SD_CONTEXT.search(name):
            generation = CONTEXT_WIDTHS.get(inputs, f"a Stable Diffusion UNet that reads text of width {inputs}")
            return Family(generation, f"{SD_KEY}{inputs}")
    if any(SDXL_NAMES.search(name) for name in flat):
        return Family("SDXL", f"{SD_KEY}2048")
    return Family("Stable Diffusion", "")
