"""The names of the blocks that a model is made of."""

import re

from .target_layer import UNET, TargetLayer

BLOCK = re.compile(r"^(?:.*?\.\d+(?=\.|$)|[^.]+)")  # the path up to its first number


def block_of(target: TargetLayer) -> str:
    """The block of the model that a layer is in, with the text encoder's name where it is in one."""
    found = BLOCK.match(target.inner)
    block = found[0] if found else target.inner
    return block if target.part == UNET else f"{target.part}.{block}"
