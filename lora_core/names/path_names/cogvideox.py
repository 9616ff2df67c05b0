"""Names of CogVideoX layers as diffusers has them: diffusers 0.42.1 CogVideoXTransformer3DModel, ComfyUI 0.33."""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

BLOCK, OTHER = "blocks.{}", "transformer_blocks.{}"

RULES = (
    *(Rule(f"time_embedding_linear_{number}", f"time_embedding.linear_{number}") for number in (1, 2)),
    *(Rule(f"ofs_embedding_linear_{number}", f"ofs_embedding.linear_{number}") for number in (1, 2)),
    *(Rule(f"{BLOCK}.{name}", f"{OTHER}.attn1.to_{name}") for name in "qkv"),
    *(Rule(f"{BLOCK}.norm_{name}", f"{OTHER}.attn1.norm_{name}") for name in "qk"),
    Rule(f"{BLOCK}.attn_out", f"{OTHER}.attn1.to_out.0"),
    Rule(f"{BLOCK}.ff_proj", f"{OTHER}.ff.net.0.proj"),
    Rule(f"{BLOCK}.ff_out", f"{OTHER}.ff.net.2"),
    *(Rule(f"{BLOCK}.norm{n}.{name}", f"{OTHER}.norm{n}.{name}") for n in (1, 2) for name in ("linear", "norm")),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """diffusers' names for a CogVideoX denoiser's paths."""
    return names_by_rules(RULES, shapes)
