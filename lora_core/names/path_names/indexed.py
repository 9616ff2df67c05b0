"""Numbers as names: cloneofsimo/lora counts the layers that it injects, in the order of the model's modules.

The order is that of diffusers 0.10, which the trainer ran on: down, up, then middle blocks; in a transformer block
attn1, ff, attn2. Counted are the linear layers of attentions and of GEGLU; of CLIP, those of its attentions.
"""

import re
from collections.abc import Iterable

from .place import Name
from .sd_unet import diffusers_names

UNET_LAYER = re.compile(
    r"(?P<side>down|up|mid)_block(?:s\.(?P<level>\d+))?\.attentions\.(?P<attention>\d+)\.transformer_blocks\."
    r"(?P<block>\d+)\.(?P<layer>attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.0\.proj)$"
)
SIDES = ("down", "up", "mid")
LAYERS = (
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
)  # fmt: skip
CLIP_LAYER = re.compile(r"(?:text_model\.)?encoder\.layers\.(?P<block>\d+)\.self_attn\.(?P<layer>\w+)$")
CLIP_LAYERS = ("k_proj", "v_proj", "q_proj", "out_proj")

Order = tuple[int, ...]


def unet_names(paths: Iterable[str]) -> Iterable[Name]:
    """The number of every attention and GEGLU layer of a Stable Diffusion UNet; nothing for other models.

    Example: input_blocks.1.1.transformer_blocks.0.attn1.to_q -> :0
    """
    found = ((_unet_order(name.name), name.inner) for name in diffusers_names(paths))
    return _numbered((order, path) for order, path in found if order is not None)


def text_encoder_names(paths: Iterable[str]) -> Iterable[Name]:
    """The number of every attention layer of a CLIP text encoder."""
    found = ((_clip_order(path), path) for path in paths)
    return _numbered((order, path) for order, path in found if order is not None)


def _unet_order(name: str) -> Order | None:
    found = UNET_LAYER.match(name)
    if not found:
        return None
    places = (int(found[group] or 0) for group in ("level", "attention", "block"))
    return (SIDES.index(found["side"]), *places, LAYERS.index(found["layer"]))


def _clip_order(path: str) -> Order | None:
    found = CLIP_LAYER.match(path)
    if not found or found["layer"] not in CLIP_LAYERS:
        return None
    return int(found["block"]), CLIP_LAYERS.index(found["layer"])


def _numbered(layers: Iterable[tuple[Order, str]]) -> Iterable[Name]:
    for number, (_, path) in enumerate(sorted(layers)):
        yield Name(f":{number}", path, alias=True)
