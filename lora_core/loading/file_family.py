"""What a file says of itself: the family of models it looks made for, and its rules of scale."""

import re
from collections.abc import Sequence

from ..adapters.scale_rules import ScaleRules, scale_rules
from ..files.lora_file import LoraFile
from ..files.safetensors_header import Header
from ..names.families import Family, Widths, recognise
from ..names.key_map import bare_name, parse_key

TEXT_ENCODER_LAYER = re.compile(r"^(?:lora_te|lora_prior_te|text_encoder|base_model\.model\.text_)")


def family_of_header(header: Header) -> Family:
    """The family of the denoiser that a file's layers were made for."""
    widths: dict[str, Widths] = {}
    for key, entry in header.entries.items():
        parsed = parse_key(key)
        if parsed is None or TEXT_ENCODER_LAYER.match(key):
            continue
        name = bare_name(parsed.layer)
        out, inputs = widths.get(name, (0, 0))
        if parsed.parameter.role == "down" and len(entry.shape) > 1:
            inputs = entry.shape[1]
        elif parsed.parameter.role == "up" and entry.shape:
            out = entry.shape[0]
        widths[name] = (out, inputs)
    return recognise(widths)


def rules_of(file: LoraFile) -> tuple[ScaleRules, Sequence[str]]:
    """The scale rules of a file, and notes on what in its metadata could not be read."""
    parsed = (parse_key(key) for key in file.header.entries if key.endswith("alpha"))
    layers = {one.layer for one in parsed if one is not None and one.parameter.role == "alpha"}
    prefixes = frozenset(layer.removesuffix(bare_name(layer)) for layer in layers)
    return scale_rules(file.header.metadata, file.peft_config, alpha_prefixes=prefixes)
