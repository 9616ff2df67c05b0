"""Names of Cosmos-Predict2 and Anima layers as diffusers has them.

Names as in diffusers 0.42.1: its converter of Cosmos 2 checkpoints and that of Anima LoRAs.
"""

from collections.abc import Iterable, Mapping

from .place import Name, Shape
from .rules import Rule, names_by_rules

OWN, BLOCK = "blocks.{}", "transformer_blocks.{}"
ADAPTER, TEXT_CONDITIONER = "llm_adapter.", "text_conditioner."  # a model of its own in diffusers


def _attention(own: str, other: str) -> Iterable[Rule]:
    yield from (Rule(f"{own}.{name}_proj", f"{other}.to_{name}") for name in "qkv")
    yield Rule(f"{own}.output_proj", f"{other}.to_out.0")
    yield from (Rule(f"{own}.{name}_norm", f"{other}.norm_{name}") for name in "qk")


RULES = (
    *_attention(f"{OWN}.self_attn", f"{BLOCK}.attn1"),
    *_attention(f"{OWN}.cross_attn", f"{BLOCK}.attn2"),
    Rule(f"{OWN}.mlp.layer1", f"{BLOCK}.ff.net.0.proj"),
    Rule(f"{OWN}.mlp.layer2", f"{BLOCK}.ff.net.2"),
    *(
        Rule(f"{OWN}.adaln_modulation_{own}.{number}", f"{BLOCK}.{other}.linear_{number}")
        for own, other in (("self_attn", "norm1"), ("cross_attn", "norm2"), ("mlp", "norm3"))
        for number in (1, 2)
    ),
    Rule("final_layer.adaln_modulation.1", "norm_out.linear_1"),
    Rule("final_layer.adaln_modulation.2", "norm_out.linear_2"),
    Rule("final_layer.linear", "proj_out"),
    Rule("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
    Rule("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
    Rule("t_embedding_norm", "time_embed.norm"),
    Rule("x_embedder.proj.1", "patch_embed.proj"),
)


def names(shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a Cosmos-Predict2 or Anima denoiser's paths."""
    yield from names_by_rules(RULES, shapes)
    for path in shapes:
        if path.startswith(ADAPTER):
            yield Name(TEXT_CONDITIONER + path.removeprefix(ADAPTER), path)
