"""The shape of a trainer's naming table; the tables themselves are in the files beside this one."""

import re
from dataclasses import dataclass

UNDERSCORES = "_"
DOTS = "."

LORA = "lora"
TEXT_ENCODER_BY_NAME = "*"  # stands for the text encoder that the layer's name itself begins with
NOT_CLIP = "not CLIP"  # stands for every text encoder that is no CLIP: T5 and language models

CLIPS = ("clip_l", "clip_h", "clip_g")
FIRST_ENCODER = ("clip_l", "clip_h", NOT_CLIP)
CLIP_BESIDE_LANGUAGE = "CLIP-L beside a language model"  # where there is neither CLIP-G nor T5, as in HunyuanVideo
SECOND_ENCODER = ("clip_g", NOT_CLIP, CLIP_BESIDE_LANGUAGE)
THIRD_ENCODER = (NOT_CLIP,)
ANY_ENCODER = (*CLIPS, NOT_CLIP)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands before a layer's name, and which part of the model it announces.

    `parts` are tried in their order: an exact name in one of them decides. `joined` tells how the layer's dotted
    path is written: with its dots, or every dot as an underscore.
    """

    text: str
    parts: tuple[str, ...]
    joined: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """What stands behind a layer's name, and the role that its tensor plays in which algorithm.

    An `algorithm` of "" marks a role that any algorithm may have, such as alpha.
    `slot` marks a parameter in or behind which PEFT may write an adapter's name (".lora_A.default.weight").
    """

    text: str
    role: str
    algorithm: str = ""
    slot: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """Keys that carry no adapter, and why they are left out."""

    pattern: re.Pattern[str]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One trainer's naming. `name` is what reports call it."""

    name: str
    prefixes: tuple[Prefix, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    saves_modules: bool = False  # a whole weight behind its prefixes is meant to take the model's place
