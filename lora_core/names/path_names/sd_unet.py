"""Names of Stable Diffusion UNet layers: from the LDM paths of the host to the block names of diffusers.

The map is derived from the paths themselves, so it holds for any number of levels and blocks. Block arithmetic as in
facts measured against ostris/ai-toolkit keymaps and ComfyUI 0.33 (SD1.5 391/391 weights, SDXL 1050/1050).
"""

import re
from collections.abc import Iterable, Mapping

from .place import Name

BLOCK = re.compile(r"^(?P<side>input_blocks|output_blocks)\.(?P<index>\d+)\.(?P<slot>\d+)\.(?P<rest>.+)$")
MIDDLE = re.compile(r"^middle_block\.(?P<slot>\d+)\.(?P<rest>.+)$")

MIDDLE_SLOTS: Mapping[str, str] = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
FIXED: Mapping[str, str] = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET: Mapping[str, str] = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
SAMPLERS: Mapping[str, str] = {"op": "downsamplers.0.conv", "conv": "upsamplers.0.conv"}
SIDES: Mapping[str, str] = {"input_blocks": "down_blocks", "output_blocks": "up_blocks"}
ATTENTION_TO = re.compile(r"(attn[12])\.(to_(?:q|k|v|out)(?:\.0)?)$")


def diffusers_names(paths: Iterable[str]) -> Iterable[Name]:
    """The diffusers name of every path of a Stable Diffusion UNet; nothing for other models.

    Example: input_blocks.4.1.proj_in -> down_blocks.1.attentions.0.proj_in
    """
    known = list(paths)
    levels = _levels(known)
    for path in known:
        name = FIXED.get(path) or _middle_name(path) or _block_name(path, levels)
        if name:
            yield Name(name, path)


def attn_processor_names(paths: Iterable[str]) -> Iterable[Name]:
    """The names of diffusers <= 0.22, which put adapters on attention processors.

    Example: ...attn1.to_out.0 -> ...attn1.processor.to_out
    """
    for name in diffusers_names(paths):
        old, changed = ATTENTION_TO.subn(r"\1.processor.\2", name.name)
        if changed:
            yield Name(old.removesuffix(".0"), name.inner, alias=True)


def _levels(paths: Iterable[str]) -> Mapping[tuple[str, int], tuple[int, int]]:
    """(side, block index) -> (level, resnet's place in that level)."""
    slots: dict[tuple[str, int], set[str]] = {}
    for path in paths:
        found = BLOCK.match(path)
        if found:
            slots.setdefault((found["side"], int(found["index"])), set()).add(found["rest"].split(".")[0])
    levels: dict[tuple[str, int], tuple[int, int]] = {}
    for side, first in (("input_blocks", 1), ("output_blocks", 0)):
        level, place = 0, 0
        for index in sorted(index for its_side, index in slots if its_side == side and index >= first):
            levels[side, index] = (level, place)
            place += 1
            if slots[side, index] & SAMPLERS.keys():
                level, place = level + 1, 0
    return levels


def _middle_name(path: str) -> str | None:
    found = MIDDLE.match(path)
    if not found or found["slot"] not in MIDDLE_SLOTS:
        return None
    slot = MIDDLE_SLOTS[found["slot"]]
    rest = RESNET.get(found["rest"]) if slot.startswith("resnets") else found["rest"]
    return f"mid_block.{slot}.{rest}" if rest else None


def _block_name(path: str, levels: Mapping[tuple[str, int], tuple[int, int]]) -> str | None:
    found = BLOCK.match(path)
    place = levels.get((found["side"], int(found["index"]))) if found else None
    if not found or place is None:
        return None
    block = f"{SIDES[found['side']]}.{place[0]}"
    rest = found["rest"]
    if rest in SAMPLERS:
        return f"{block}.{SAMPLERS[rest]}"
    if found["slot"] == "0":
        return f"{block}.resnets.{place[1]}.{RESNET[rest]}" if rest in RESNET else None
    return f"{block}.attentions.{place[1]}.{rest}"
