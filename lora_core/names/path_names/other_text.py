"""Names of text encoders that are not CLIP: language models and BERT, by the levels that trainers leave out or add.

T5 needs none but its embedding: hosts and trainers have the paths of Hugging Face.
"""

from collections.abc import Iterable, Mapping

from .place import Name

# The host's level -> what else stands there: transformers has moved the language model of a vision model several times.
LEVELS: Mapping[str, tuple[str, ...]] = {
    "model.": ("", "language_model.", "model.language_model.", "language_model.model."),
    "visual.": ("model.visual.",),
    "bert.": ("",),
}
T5_EMBEDDING = Name("encoder.embed_tokens", "shared", alias=True)


def names(paths: Iterable[str]) -> Iterable[Name]:
    """Every other name in use for the paths of a text encoder that is not CLIP.

    Example: model.layers.0.self_attn.q_proj -> layers.0.self_attn.q_proj
    """
    for path in paths:
        if path == T5_EMBEDDING.inner:
            yield T5_EMBEDDING
        for level, others in LEVELS.items():
            if path.startswith(level):
                rest = path.removeprefix(level)
                yield from (Name(other + rest, path, alias=True) for other in others)
