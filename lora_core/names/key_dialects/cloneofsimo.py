"""cloneofsimo/lora (2022): "unet:12:up", the number of a layer in the order in which the trainer met it."""

import re

from .dialect import DOTS, LORA, Dialect, Ignored, Parameter, Prefix

DIALECT = Dialect(
    name="cloneofsimo",
    prefixes=(
        Prefix("unet", ("unet",), DOTS),
        Prefix("text_encoder", ("clip_l", "clip_h"), DOTS),
    ),
    parameters=(
        Parameter(":down", "down", LORA),
        Parameter(":up", "up", LORA),
    ),
    ignored=(Ignored(re.compile(r"^<[^<>]+>$"), "a learned text embedding; load it as an embedding"),),
)
