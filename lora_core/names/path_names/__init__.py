"""Other names that trainers give to a model's own paths: one family of models per file, one table of them here."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from . import (
    ace_step,
    auraflow,
    cascade,
    clip_text,
    cogvideox,
    cosmos,
    flux,
    hunyuan_video,
    ideogram,
    indexed,
    krea,
    ltx,
    lumina,
    mochi,
    other_text,
    pixart,
    sd3,
    sd_unet,
    wan,
)
from .fused import fused_names
from .place import Name, Shape

DENOISER = "unet"

# A source takes a part's own paths with their shapes and gives other names for them.
Source = Callable[[Mapping[str, Shape]], Iterable[Name]]

# How a path begins that a family alone has -> what knows other names for its denoiser. Outer layers such as
# "final_layer.linear" are called alike in many families, and stand for differently named layers.
FAMILIES: Sequence[tuple[str, Source]] = (
    ("input_blocks.", sd_unet.diffusers_names),
    ("double_blocks.", flux.names),
    ("single_blocks.", flux.names),
    ("txt_in.individual_token_refiner.", hunyuan_video.names),
    ("joint_blocks.", sd3.names),
    ("double_layers.", auraflow.names),
    ("blocks.0.cross_attn.kv_linear", pixart.names),
    ("blocks.0.self_attn.norm_q", wan.names),
    ("patchify_proj", ltx.names),
    ("cap_embedder.", lumina.names),
    ("txtfusion.", krea.names),
    ("blocks.0.self_attn.q_proj", cosmos.names),
    ("decoder.layers.", ace_step.names),
    ("t5_y_embedder.", mochi.names),
    ("patch_embed.text_proj", cogvideox.names),
    ("clip_txt_mapper", cascade.names),
    ("llm_cond_proj", ideogram.names),
)
CLIPS = ("clip_l", "clip_g", "clip_h")
# Of trainers that few files come from, looked up only where the names above are not enough.
RARE: Mapping[str, Sequence[Source]] = {
    DENOISER: (sd_unet.attn_processor_names, indexed.unet_names),
    "clip_l": (indexed.text_encoder_names,),
    "clip_h": (indexed.text_encoder_names,),
}


def names_of_part(part: str, shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """Every other name in common use for a part's paths: "unet" for a denoiser, else a text encoder's name."""
    if part == DENOISER:
        for source in _of_family(shapes):
            yield from source(shapes)
    else:
        yield from (clip_text if part in CLIPS else other_text).names(shapes)


def rare_names_of_part(part: str, shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """The names of a part's paths that few files use."""
    for source in RARE.get(part, ()):
        yield from source(shapes)


def _of_family(shapes: Mapping[str, Shape]) -> Iterable[Source]:
    found = (source for mark, source in FAMILIES if any(path.startswith(mark) for path in shapes))
    return dict.fromkeys(found)


def diffusers_names(part: str, shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """The names that diffusers itself has for a part's paths; a path without one is named alike in both."""
    return (name for name in names_of_part(part, shapes) if not name.alias)


__all__ = ["Name", "Shape", "diffusers_names", "fused_names", "names_of_part", "rare_names_of_part"]
