"""Other names that trainers give to a model's own paths: one family of models per file, one table of them here."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from . import (
    ace_step,
    auraflow,
    clip_text,
    cosmos,
    flux,
    hunyuan_video,
    krea,
    ltx,
    lumina,
    other_text,
    pixart,
    sd3,
    sd_unet,
    wan,
)
from .place import Name, Shape

# A source takes a part's own paths with their shapes and gives names for the families it knows, else nothing.
Source = Callable[[Mapping[str, Shape]], Iterable[Name]]

# part of the model -> the functions that know other names for its paths
NAMES_OF_PART: Mapping[str, Sequence[Source]] = {
    "unet": (
        sd_unet.diffusers_names,
        sd_unet.attn_processor_names,
        flux.names,
        hunyuan_video.names,
        sd3.names,
        auraflow.names,
        pixart.names,
        wan.names,
        ltx.names,
        lumina.names,
        krea.names,
        cosmos.names,
        ace_step.names,
    ),
    "clip_l": (clip_text.names,),
    "clip_g": (clip_text.names,),
    "clip_h": (clip_text.names,),
}
NAMES_OF_OTHER_TEXT_ENCODERS: Sequence[Source] = (other_text.names,)  # every part that is not named above
