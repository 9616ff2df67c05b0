"""Gathers what a file says for all its layers at once: PEFT's configuration, metadata, and the tensors they share."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..adapters import WholeFile
from ..adapters.scale_rules import patterns_of
from ..adapters.shared_projection import PRNG_KEY, A, B, draw_projections
from ..files.lora_file import LoraFile
from ..names.key_dialects.peft import SHARED_PROJECTION
from ..names.key_map import LayerKeys
from ..names.target_layer import ModelLayout

CONTROL_LORA = ("img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale")  # keys that only BFL's files have both
VERA_ROLE = "vera_lambda_b"


def whole_file(
    file: LoraFile, layers: Sequence[LayerKeys], layout: ModelLayout, read: Callable[[str], Tensor]
) -> WholeFile:
    """What `layers` of a file need besides their own tensors.

    Args:
        file: from open_lora.
        layers: those of its layers that the model has.
        layout: the model's layers.
        read: gives the tensor of a key.
    """
    config = file.peft_config or {}
    whole = WholeFile(config=config, metadata=file.header.metadata)
    stored = {match["role"]: key for key in file.header.entries if (match := SHARED_PROJECTION.match(key))}
    shared: Mapping[str, Tensor] = {role: read(key) for role, key in stored.items()}
    if not shared:
        shared = _drawn(file, layers, layout, whole)
    enlarges = all(any(key.endswith(name) for key in file.header.entries) for name in CONTROL_LORA)
    ranks = patterns_of(config, "rank_pattern", [])  # read by LoKr alone
    return WholeFile(shared=shared, config=config, metadata=whole.metadata, rank_pattern=ranks, enlarges=enlarges)


def _drawn(file: LoraFile, layers: Sequence[LayerKeys], layout: ModelLayout, whole: WholeFile) -> Mapping[str, Tensor]:
    """VeRA's projections drawn again. Their sizes are those of the largest layers, so all layers must be at hand."""
    placed = [layer for layer in layers if VERA_ROLE in layer.keys]
    in_file = sum(key.endswith(f".{VERA_ROLE}") for key in file.header.entries)
    key, rank = (whole.peft_number(name, -1) for name in (PRNG_KEY, "r"))
    if not placed or len(placed) < in_file or key < 0 or rank <= 0 or not file.has_shapes:
        return {}
    outputs = max(file.header.entries[layer.keys[VERA_ROLE].key].shape[0] for layer in placed)
    inputs = max(layout.targets[layer.places[0].path].shape[1] for layer in placed)
    a, b = draw_projections(int(key), int(rank), inputs, outputs)
    return {A: a, B: b}
