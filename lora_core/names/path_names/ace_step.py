"""Names of ACE-Step 1.5 layers: trainers adapt its decoder alone, and diffusers respells the projections in it.

Names as in diffusers 0.42.1 AceStepTransformer1DModel and its converter of ACE-Step LoRAs.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

DECODER = "decoder."
LAYER = "layers.{}"


def _attention(name: str) -> Iterable[Rule]:
    own, other = f"{DECODER}{LAYER}.{name}", f"{LAYER}.{name}"
    yield from (Rule(f"{own}.{part}_proj", f"{other}.to_{part}") for part in "qkv")
    yield Rule(f"{own}.o_proj", f"{other}.to_out.0")
    yield from (Rule(f"{own}.{part}_norm", f"{other}.norm_{part}") for part in "qk")


RULES = (
    *_attention("self_attn"),
    *_attention("cross_attn"),
    Rule(f"{DECODER}proj_in.1", "proj_in_conv"),
    Rule(f"{DECODER}proj_out.1", "proj_out_conv"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for the paths of ACE-Step's decoder."""
    respelled = list(names_by_rules(RULES, shapes))
    yield from respelled
    named = {name.inner for name in respelled}
    for path in shapes:
        if path.startswith(DECODER):
            yield Name(path.removeprefix(DECODER), path, alias=path in named)
