"""Names of Ideogram 4 layers as diffusers and its trainers have them: split q, k, v."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules, split

ATTENTION = "layers.{}.attention"

RULES = (
    *split(f"{ATTENTION}.qkv", [f"{ATTENTION}.to_{name}" for name in "qkv"]),
    Rule(f"{ATTENTION}.o", f"{ATTENTION}.to_out.0"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """diffusers' names for an Ideogram 4 denoiser's attention."""
    return names_by_rules(RULES, shapes)
