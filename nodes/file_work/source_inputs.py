"""The inputs of nodes that take several LoRAs with strengths, and the files and model that came in over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraFile, ModelLayout, open_lora
from ...lora_core.errors import BadSetting
from ...lora_core.file_work.deltas.aligned_layers import ParameterOf
from ...lora_core.file_work.sources import Source
from ...lora_core.weave.stack_rows import parse_stack
from ..comfy_bridge import model_names, parameter_of
from ..host_files.lora_folders import find_lora
from ..sockets.socket_types import Lora, LoraStack, strength_input

SLOTS = 4  # LORA sockets of a node; a stack takes any number


def source_inputs(what: str) -> list[Any]:
    """A stack, and LORA sockets with a strength each."""
    stack = LoraStack.Input(
        "lora_stack",
        optional=True,
        tooltip=f"Files {what}, with their strengths on the model and on the text encoders.",
    )
    slots: list[Any] = []
    for number in range(1, SLOTS + 1):
        tip = f"A LoRA {what}, from Load LoRA File, Train LoRA or another node that gives a LORA."
        slots.append(Lora.Input(f"lora_{number}", optional=True, tooltip=tip))
        slots.append(strength_input(f"strength_{number}", f"what lora_{number} changes", optional=True))
    return [stack, *slots]


def model_inputs(why: str) -> list[Any]:
    """A model and its CLIP, both optional and never changed."""
    return [
        io.Model.Input("model", optional=True, tooltip=f"The model that the LoRAs are for; it is not changed. {why}"),
        io.Clip.Input("clip", optional=True, tooltip="Its CLIP, for layers of text encoders. It is not changed."),
    ]


def given_sources(lora_stack: Any, slots: Mapping[str, Any]) -> list[Source]:
    """The files of the stack, then those of the sockets.

    Raises BadSetting where there is none, StackError or FileError where one can't be read.
    """
    rows = parse_stack(lora_stack) if lora_stack is not None else []
    moved = [row.name for row in rows if row.blocks or row.schedule]
    if moved:
        raise BadSetting(
            f"Rows with block strengths or a schedule can be applied, but not be taken here: {', '.join(moved)}. "
            "Take both out of these rows."
        )
    sources = [Source(open_lora(find_lora(row.name)), row.strength_model, row.strength_clip) for row in rows]
    for number in range(1, SLOTS + 1):
        file: LoraFile | None = slots.get(f"lora_{number}")
        if file is not None:
            sources.append(Source(file, slots.get(f"strength_{number}", 1.0)))
    if not sources:
        raise BadSetting("No LoRA is connected: give a lora_stack, or a LORA at lora_1.")
    return sources


@dataclass(frozen=True, slots=True)
class GivenModel:
    """The model that came in, or none."""

    layout: ModelLayout | None
    read: ParameterOf | None


def given_model(model: Any, clip: Any) -> GivenModel:
    """The layers of a model and what reads its weights."""
    if model is None:
        return GivenModel(None, None)
    return GivenModel(model_names(model, clip).layout, parameter_of(model, clip))


def short_names(sources: Sequence[Source]) -> str:
    """The files in one name, for what is made of them."""
    stems = [source.file.name.removesuffix(".safetensors") for source in sources]
    return "+".join(dict.fromkeys(stems))[:100]
