"""Names of Stable Cascade layers as diffusers has them: diffusers 0.42.1 StableCascadeUNet."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

BLOCKS = tuple(f"{way}_blocks.{{}}.{{}}.attention" for way in ("down", "up"))

RULES = (
    *(Rule(f"{block}.attn.to_{name}", f"{block}.to_{name}") for block in BLOCKS for name in "qkv"),
    *(Rule(f"{block}.attn.out_proj", f"{block}.to_out.0") for block in BLOCKS),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """diffusers' names for a Stable Cascade denoiser's attention."""
    return names_by_rules(RULES, shapes)
