"""Other names that trainers give to a model's own paths: one family of models per file, one table of them here."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from . import clip_text, sd_unet
from .place import Name

# part of the model -> the functions that know other names for its paths.
# Each takes the part's own paths and gives (other name, where it points) for the families it knows, else nothing.
NAMES_OF_PART: Mapping[str, Sequence[Callable[[Iterable[str]], Iterable[Name]]]] = {
    "unet": (sd_unet.diffusers_names, sd_unet.attn_processor_names),
    "clip_l": (clip_text.names,),
    "clip_g": (clip_text.names,),
    "clip_h": (clip_text.names,),
}
