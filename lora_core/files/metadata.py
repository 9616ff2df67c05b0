"""What an adapter file says of itself: the fields of its metadata that people ask for, read or named as unreadable."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .metadata_value import Unreadable, read_table
from .trigger_words import TriggerWord, find_trigger_words

NETWORK_ARGS, THUMBNAIL = "ss_network_args", "modelspec.thumbnail"
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
ABSENT = frozenset({"", "None", "null"})  # kohya writes str(None) for what was not set

# Field of About -> names in the metadata, the first that is there counts. Sources: Stability-AI/ModelSpec; kohya
# sd-scripts train_network.py; ai-toolkit BaseSDTrainProcess.py ("name").
TEXTS: Mapping[str, Sequence[str]] = {
    "title": ("modelspec.title", "name"),
    "author": ("modelspec.author",),
    "architecture": ("modelspec.architecture",),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "prediction_type": ("modelspec.prediction_type",),
    "usage_hint": ("modelspec.usage_hint",),
    "merged_from": ("modelspec.merged_from",),
    "trigger_phrase": ("modelspec.trigger_phrase",),
    "base_model": ("ss_base_model_version",),
    "base_checkpoint": ("ss_sd_model_name",),
    "output_name": ("ss_output_name",),
    "network_module": ("ss_network_module",),
    "network_dim": ("ss_network_dim",),  # a number, or "Dynamic"
    "network_alpha": ("ss_network_alpha",),
    "comment": ("ss_training_comment",),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A metadata field (and a part of its value) that one trainer alone writes."""

    trainer: str
    field: re.Pattern[str]
    value: re.Pattern[str]


def _mark(trainer: str, field: str, value: str = "") -> Mark:
    return Mark(trainer, re.compile(field), re.compile(value))


# The first that is found counts: ai-toolkit also writes ss_* fields, and all that write those descend from kohya's.
# SimpleTuner leaves its LyCORIS configuration; its plain LoRAs are saved by diffusers and can't be told from others.
MARKS: tuple[Mark, ...] = (
    _mark("OneTrainer", r"ot_(?:branch|revision|config)"),
    _mark("ai-toolkit", "software", "ai-toolkit"),
    _mark("ai-toolkit", "training_info"),
    _mark("SimpleTuner", r"software|modelspec\.implementation|modelspec\.author", "(?i)simpletuner"),
    _mark("SimpleTuner", "lycoris_config"),
    _mark("LyCORIS", "ss_network_module", r"^lycoris\."),
    _mark("musubi-tuner", "ss_network_module", r"^networks\.lora_(?:wan|framepack|qwen|flux_|zimage|kandinsky|hv_)"),
    _mark(
        "musubi-tuner",
        "ss_base_model_version",
        r"^(?:hunyuan_video|wan|framepack|flux_kontext|flux_2_|qwen_image|kandinsky5|z_image)",
    ),
    _mark("kohya sd-scripts", r"ss_\w+"),
    _mark("diffusers", "lora_adapter_metadata"),
    _mark("cloneofsimo/lora", r"(?:unet|text_encoder):\d+:rank"),
)

LINE_AT_MOST = 160  # characters of one value in the text form; the JSON form has all
WORDS_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a file says of itself; None and empty where it says nothing. Nothing in here is checked against its data."""

    title: str | None = None
    author: str | None = None
    architecture: str | None = None
    resolution: str | None = None
    prediction_type: str | None = None
    usage_hint: str | None = None
    merged_from: str | None = None
    trigger_phrase: str | None = None
    base_model: str | None = None
    base_checkpoint: str | None = None
    output_name: str | None = None
    network_module: str | None = None
    network_dim: str | None = None
    network_alpha: str | None = None
    comment: str | None = None
    network_args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trainer: str | None = None
    trigger_words: Sequence[TriggerWord] = ()  # by falling share of the training images
    thumbnail_bytes: int | None = None  # of the picture in the metadata, which is not decoded
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])  # metadata field -> reason

    def lines(self) -> list[str]:
        """A few lines for a person; none where the file says nothing."""
        by = f" by {_short(self.author)}" if self.author else ""
        title = self.title or self.output_name
        base = ", ".join(_short(text) for text in (self.base_model, self.base_checkpoint, self.architecture) if text)
        network = (
            ("", self.network_module),
            ("dim ", self.network_dim),
            ("alpha ", self.network_alpha),
        )
        settings = ", ".join(f"{name}{_short(text)}" for name, text in network if text)
        said = {
            "Title": f"{_short(title)}{by}" if title else None,
            "Base model": base,
            "Trainer": ": ".join(part for part in (self.trainer, settings) if part),
            "Trigger phrase": self.trigger_phrase and _short(self.trigger_phrase),
            "Words in training": ", ".join(map(_word, self.trigger_words[:WORDS_SHOWN])),
            "Usage": self.usage_hint and _short(self.usage_hint),
            "Comment": self.comment and _short(self.comment),
            "Metadata that can't be read": ", ".join(f"{n} ({_short(why)})" for n, why in self.unreadable.items()),
        }
        return [f"{name}: {text}" for name, text in said.items() if text]

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def read_about(metadata: Mapping[str, str]) -> About:
    """Read what a header's metadata says. Never raises: what is malformed is listed as unreadable."""
    unreadable: dict[str, str] = {}
    words, misread = find_trigger_words(metadata)
    unreadable.update(misread)
    texts = {name: first_text(metadata, sources) for name, sources in TEXTS.items()}
    return About(
        **texts,
        network_args=_network_args(metadata, unreadable),
        trainer=_trainer(metadata),
        trigger_words=words,
        thumbnail_bytes=_thumbnail_bytes(metadata, unreadable),
        unreadable=unreadable,
    )


def first_text(metadata: Mapping[str, str], sources: Sequence[str]) -> str | None:
    """The first of some fields that says something; None where none does."""
    values = (metadata.get(source, "").strip() for source in sources)
    return next((value for value in values if value not in ABSENT), None)


def _network_args(metadata: Mapping[str, str], unreadable: dict[str, str]) -> Mapping[str, Any]:
    text = metadata.get(NETWORK_ARGS, "").strip()
    if text in ABSENT:
        return {}
    try:
        return {name: _plain(value) for name, value in read_table(text).items()}
    except Unreadable as reason:
        unreadable[NETWORK_ARGS] = str(reason)
        return {}


def _plain(value: object) -> str | int | float | bool | None:
    """A setting as plain data: nested ones, which no trainer writes, as their text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):  # JSON knows no NaN
        return value
    try:
        return str(value)
    except RecursionError:
        return "..."


def _trainer(metadata: Mapping[str, str]) -> str | None:
    for mark in MARKS:
        for name, value in metadata.items():
            if mark.field.fullmatch(name) and mark.value.search(value):
                return mark.trainer
    return None


def _thumbnail_bytes(metadata: Mapping[str, str], unreadable: dict[str, str]) -> int | None:
    text = metadata.get(THUMBNAIL, "").strip()
    if text in ABSENT:
        return None
    start = DATA_URL.match(text)
    if start is None:
        unreadable[THUMBNAIL] = "no data URL of a picture"
        return None
    return (len(text) - start.end()) * 3 // 4 - (len(text) - len(text.rstrip("=")))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LINE_AT_MOST else f"{flat[: LINE_AT_MOST - 3]}..."


def _word(word: TriggerWord) -> str:
    return f"{_short(word.text)} ({word.share:.0%})"
