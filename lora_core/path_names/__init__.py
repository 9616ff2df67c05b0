"""Other names that trainers give to a model's own paths: one family of models per file, one table of them here."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from . import clip_text, flux, indexed, lumina, sd3, sd_unet, wan
from .fused import fused_names
from .place import Name, Shape

# part of the model -> the functions that know other names for its paths.
# Each takes the part's own paths with their shapes and gives names for the families it knows, else nothing.
NAMES_OF_PART: Mapping[str, Sequence[Callable[[Mapping[str, Shape]], Iterable[Name]]]] = {
    "unet": (
        sd_unet.diffusers_names,
        sd_unet.attn_processor_names,
        indexed.unet_names,
        flux.names,
        sd3.names,
        wan.names,
        lumina.names,
    ),
    "clip_l": (clip_text.names, indexed.text_encoder_names),
    "clip_g": (clip_text.names,),
    "clip_h": (clip_text.names, indexed.text_encoder_names),
}


def names_of_part(part: str, shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in use for a part's paths."""
    for source in NAMES_OF_PART.get(part, ()):
        yield from source(shapes)


__all__ = ["Name", "Shape", "fused_names", "names_of_part"]
