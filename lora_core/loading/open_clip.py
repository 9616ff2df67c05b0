"""Where CLIP's layers are stored in checkpoints with OpenCLIP's names, which have q, k and v in one matrix."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# What stands before OpenCLIP's names, and the text encoder that it is. Sources: the checkpoints of SDXL, of its
# refiner and of SD2, as their configurations in Stability-AI/generative-models and stablediffusion name the modules.
PREFIXES: Mapping[str, str] = {
    "conditioner.embedders.1.model.": "clip_g",
    "conditioner.embedders.0.model.": "clip_g",
    "cond_stage_model.model.": "clip_h",
}
BLOCK = re.compile(r"^transformer\.resblocks\.(?P<number>\d+)\.(?P<layer>.+)\.(?P<end>weight|bias)$")
FUSED = re.compile(r"^transformer\.resblocks\.(?P<number>\d+)\.attn\.in_proj_(?P<end>weight|bias)$")
IN_BLOCK: Mapping[str, str] = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTSIDE: Mapping[str, str] = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order of the fused matrix's rows


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a parameter of a model is in a checkpoint."""

    key: str
    rows: tuple[int, int] | None = None  # [start, stop) of the tensor; None for all


def stored_layers(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Stored]:
    """CLIP's own name of a parameter -> where a checkpoint has it under another; empty where all names are CLIP's.

    Args:
        shapes: of the checkpoint's tensors.
    """
    found: dict[str, Stored] = {}
    for key, shape in shapes.items():
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
        if prefix is not None:
            text_model = f"{PREFIXES[prefix]}.transformer.text_model."
            own = _names(key.removeprefix(prefix), shape)
            found |= {text_model + name: Stored(key, rows) for name, rows in own.items()}
    return found


def shapes_by_layer(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """The shapes of a checkpoint with those layers under CLIP's own names, q, k and v apart."""
    stored = stored_layers(shapes)
    elsewhere = {place.key for place in stored.values()}
    own = {name: shape for name, shape in shapes.items() if name not in elsewhere}
    for name, place in stored.items():
        whole = shapes[place.key]
        own[name] = whole if place.rows is None else (place.rows[1] - place.rows[0], *whole[1:])
    return own


def _names(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, int] | None]:
    """CLIP's names of what OpenCLIP calls `name`, each with its rows."""
    if name in OUTSIDE:
        return {OUTSIDE[name]: None}
    fused = FUSED.match(name)
    if fused is not None and shape and shape[0] % len(PROJECTIONS) == 0:
        width = shape[0] // len(PROJECTIONS)
        layer = f"encoder.layers.{fused['number']}.self_attn"
        return {f"{layer}.{p}.{fused['end']}": (n * width, (n + 1) * width) for n, p in enumerate(PROJECTIONS)}
    block = BLOCK.match(name)
    if block is None or block["layer"] not in IN_BLOCK:
        return {}
    return {f"encoder.layers.{block['number']}.{IN_BLOCK[block['layer']]}.{block['end']}": None}
