"""Which layers of a denoiser or text encoder are attention and which are feed-forward, by their paths in a block."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KindPattern:
    """How some families call the layers of a kind."""

    pattern: re.Pattern[str]  # searched in the path behind the number of a block
    families: str


def _called(pattern: str, families: str) -> KindPattern:
    return KindPattern(re.compile(pattern), families)


ATTENTION: Sequence[KindPattern] = (
    _called(
        r"(?:^|[._])attn\d?(?:\.|$)",
        "SD, SD3, Flux, Qwen, PixArt, LTX, HiDream, Mochi, Lens; also cross_attn, img_attn",
    ),
    _called(r"(?:^|\.)(?:self_|cross_)?attention\.", "Lumina2, Z-Image, Kandinsky 5, Ernie, Ideogram 4, Cascade"),
    _called(r"^linear[12]$", "single blocks of Flux and Hunyuan: attention and feed-forward in one"),
    _called(r"^(?:q|k|v|attn_out)$", "CogVideoX"),
    _called(r"^(?:0\.)?SelfAttention\.|^layer\.\d+\.SelfAttention\.", "T5"),
)
FEED_FORWARD: Sequence[KindPattern] = (
    _called(r"(?:^|\.)(?:ff|ffn|mlp|feed_forward|\w+_mlp)(?:\.|$)", "most"),
    _called(r"(?:^|\.)(?:ff_[it]|mlp_[xy]|mlp[CX])\.", "HiDream, Mochi, AuraFlow"),
    _called(r"(?:^|\.)channelwise\.", "Stable Cascade"),
    _called(r"^(?:ff_proj|ff_out)$", "CogVideoX"),
    _called(r"^block\.layer[12]$", "Cosmos-Predict1"),
)
NEITHER = re.compile(r"modulation|adaln", re.IGNORECASE)  # of an attention, but no part of it
BLOCK = re.compile(r"\.\d+\.")


def is_attention(path: str) -> bool:
    """Whether a layer is a projection of an attention, or of one fused with its feed-forward."""
    return _is(path, ATTENTION)


def is_feed_forward(path: str) -> bool:
    """Whether a layer is one of a block's feed-forward layers."""
    return _is(path, FEED_FORWARD)


def _is(path: str, kinds: Sequence[KindPattern]) -> bool:
    if NEITHER.search(path):
        return False
    tails = [path[found.end() :] for found in BLOCK.finditer(path)]
    return any(kind.pattern.search(tail) for kind in kinds for tail in tails)
