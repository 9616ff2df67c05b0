"""What training learns from: encoded pictures, each with its caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainSample:
    """One picture with its caption, both encoded."""

    latent: Tensor  # [channels, *picture], as the VAE gives it: not yet scaled for the model
    conditioning: Any  # what the host's text encoder made of the caption; only the host reads it
    caption: str
    name: str  # of the picture, for reports and errors
    size: tuple[int, int]  # height and width of the picture as it was found, in pixels
    crop: tuple[int, int] = (0, 0)  # top and left edge of what was cut out of the resized picture, in pixels
    repeats: int = 1  # times it is seen in one epoch
    keep: bool = False  # whether the model should go on saying of it what it says untrained


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSet:
    """The samples, and the encoders that made them, for previews at other captions."""

    samples: Sequence[TrainSample]
    encode_text: Callable[[str], Any]  # caption -> conditioning, as in the samples
    decode: Callable[[Tensor], Tensor]  # latents [pictures, channels, *picture] -> pictures [pictures, h, w, 3], 0..1
    trigger: str = ""  # what every caption has in common on purpose
    notes: Sequence[str] = ()  # what a person should know: pictures left out on request, captions missing
