"""The names of the blocks of a model: every name under which one is shown is a name that it is found by."""

import re
from collections.abc import Iterable, Iterator

from .target_layer import UNET, TargetLayer

PATH_BLOCK = re.compile(r"^(?:.*?\.\d+(?=\.|$)|[^.]+)")  # the path up to its first number
# Up to the first number, and in a UNet also the block's inner number: down_blocks_1_attentions_0.
FILE_BLOCK = re.compile(
    r"^(?P<block>[a-z_.]*?[._]\d+(?:[._](?:attentions|resnets|\d+)(?:[._]\d+)?(?=[._]|$))?)(?=[._]|$)"
)
OTHER = "other layers"
UNET_BLOCK = re.compile(r"^(input|middle|output)_blocks?(?:\.(\d+))?(?=\.|$)")
SHORT = {"input": "in", "middle": "mid", "output": "out"}  # of a UNet's blocks, as people name them


def block_of(target: TargetLayer) -> str:
    """The block of the model that a layer is in, with the text encoder's name where it is in one."""
    found = PATH_BLOCK.match(target.inner)
    block = found[0] if found else target.inner
    return block if target.part == UNET else f"{target.part}.{block}"


def short_block_of(target: TargetLayer) -> str:
    """The block's short name: "in4", "mid" and "out4" in a UNet with such blocks, else as `block_of` has it."""
    found = UNET_BLOCK.match(target.inner) if target.part == UNET else None
    if found is None:
        return block_of(target)
    return SHORT[found[1]] + ("" if found[1] == "middle" else found[2] or "")


def block_in_file(name: str) -> str:
    """The block that a layer's name in a file, without its prefix, says, with underscores; OTHER without a number."""
    found = FILE_BLOCK.match(name)
    return found["block"].replace(".", "_") if found else OTHER


def names_of(target: TargetLayer, in_files: Iterable[str]) -> Iterator[str]:
    """Every name that a layer is found by: its path with and without the part's prefix, and the names of its block.

    in_files: names of the layer in files, without their prefixes.
    """
    yield from (target.path, target.inner, block_of(target), short_block_of(target))
    yield from map(block_in_file, in_files)


def in_order(blocks: Iterable[str]) -> list[str]:
    """As a person counts: block 2 before block 10."""
    return sorted(blocks, key=_counted)


def _counted(name: str) -> list[tuple[bool, int, str]]:
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.findall(r"\d+|\D+", name)]
