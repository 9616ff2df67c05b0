"""Names of CLIP text encoder layers: Hugging Face paths, whole or shortened, and old diffusers projections."""

import re
from collections.abc import Iterable, Mapping

from .place import Name

WRAPPER = "text_model."  # transformers >= 5.6 dropped this level from its paths; files and hosts keep it
OLD_PROJECTIONS: Mapping[str, str] = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
PROJECTION = re.compile(r"(?P<head>.*self_attn\.)(?P<name>[qkv]_proj|out_proj)$")


def names(paths: Iterable[str]) -> Iterable[Name]:
    """Every other name in use for a CLIP text encoder's paths.

    Examples: text_model.encoder.layers.0.mlp.fc1 -> encoder.layers.0.mlp.fc1,
    text_model.encoder.layers.0.self_attn.q_proj -> text_model.encoder.layers.0.self_attn.to_q
    """
    for path in paths:
        if path.startswith(WRAPPER):
            yield Name(path.removeprefix(WRAPPER), path, alias=True)
        found = PROJECTION.match(path)
        if found:
            yield Name(found["head"] + OLD_PROJECTIONS[found["name"]], path, alias=True)
