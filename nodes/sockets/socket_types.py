"""Socket types and inputs that several nodes share."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.weave import AUTO, MODES
from ...lora_core.weave.strength_limit import RANGE, STRENGTH_LIMIT
from ..host_files.lora_folders import lora_names

LoraStack = io.Custom("LORA_STACK")
Lora = io.Custom("LORA")  # a lora_core.LoraFile: on disk, or in memory as training and merging make it
LoraTrainSettings = io.Custom("LORA_TRAIN_SETTINGS")  # names of lora_core.training.TrainSettings -> values
LoraSchedule = io.Custom("LORA_SCHEDULE")  # a lora_core.weave.Schedule
LoraBlocks = io.Custom("BLOCK_STRENGTHS")  # a lora_core.block_strengths.BlockStrengths
LoraSweep = io.Custom("LORA_SWEEP")  # a lora_core.sweep.Sweep
LoraDataset = io.Custom("LORA_DATASET")  # a lora_core.dataset.TrainingSet

CATEGORY = "LoRA Loom"
REPORT = "report"
ERROR = "error"


def lora_file_input() -> io.Combo.Input:
    """The file to use, out of the host's loras folders."""
    return io.Combo.Input(
        "lora_name",
        options=lora_names(),
        tooltip="The LoRA file, from the loras folders. A file that is overwritten is read again at the next run.",
    )


def lora_input(what: str) -> Any:
    """An adapter out of another node, in the place of a file."""
    return Lora.Input(
        "lora",
        optional=True,
        tooltip=f"{what} A LoRA from another node, as Train LoRA and Merge LoRA give it. With it connected, the file "
        "above is not read.",
    )


def lora_output(tooltip: str) -> Any:
    """An adapter for Apply LoRA, Save LoRA and others."""
    return Lora.Output("made_lora", display_name="LORA", tooltip=tooltip)


def report_output_of(what: str) -> io.String.Output:
    """What was done, in words."""
    return io.String.Output("report", display_name="report", tooltip=what)


def strength_input(name: str, what: str, *, optional: bool = False) -> io.Float.Input:
    """A strength: what the change is multiplied with."""
    return io.Float.Input(
        name,
        optional=optional,
        default=1.0,
        min=-STRENGTH_LIMIT,
        max=STRENGTH_LIMIT,
        step=0.01,
        tooltip=f"Strength on {what}, a factor without unit {RANGE}: 0 is off, 1 is as trained, "
        "negative turns the effect round. Usual: 0.5 to 1.2.",
    )


def on_unmatched_input() -> io.Combo.Input:
    """What to do with keys that fit no layer."""
    return io.Combo.Input(
        "on_unmatched",
        options=[REPORT, ERROR],
        default=REPORT,
        tooltip='Keys that fit no layer of the model: "report" applies the rest and lists them in the report, '
        '"error" stops the run and applies nothing.',
    )


def mode_input() -> io.Combo.Input:
    """Where the change is made."""
    return io.Combo.Input(
        "mode",
        options=list(MODES),
        default=AUTO,
        optional=True,
        tooltip="branch: beside the layers, so another strength costs nothing and a quantised model keeps the change "
        "exactly. merge: in the weights, by ComfyUI; no cost per step, but another strength loads the model again. "
        "auto: whichever is predicted to be faster in a run of 30 steps; the report says why.",
    )


def schedule_input(what: str) -> Any:
    """A curve of the strength over the steps."""
    return LoraSchedule.Input(
        "schedule",
        optional=True,
        tooltip=f"How {what} on the model changes over the steps, from LoRA Schedule: its curve multiplies it. The "
        "text encoders keep their strength. Not with mode merge.",
    )


def blocks_input(what: str) -> Any:
    """Factors of single blocks."""
    return LoraBlocks.Input(
        "blocks",
        optional=True,
        tooltip=f"Factors of single blocks, from LoRA Block Strengths: they multiply {what} there, on the model and "
        "on the text encoders. Everything not named keeps it.",
    )


def model_input(what: str) -> io.Model.Input:
    """The model that is changed."""
    return io.Model.Input("model", tooltip=f"The model to apply {what} to. It is left as it is; the output is changed.")


def clip_input(what: str) -> io.Clip.Input:
    """The CLIP that is changed, if there is one."""
    tooltip = f"The CLIP to apply {what} to. Without it, text encoder layers are left out and listed."
    return io.Clip.Input("clip", optional=True, tooltip=tooltip)


def applied_outputs(what: str) -> list[Any]:
    """Model, CLIP and report."""
    return [
        io.Model.Output("model_out", display_name="MODEL", tooltip=f"The model with {what}."),
        io.Clip.Output("clip_out", display_name="CLIP", tooltip=f"The CLIP with {what}; empty if none came in."),
        io.String.Output(
            "report", display_name="report", tooltip="For each file: matched, ignored and unmatched keys, and why."
        ),
    ]
