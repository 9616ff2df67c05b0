"""The node "Apply LoRA": one file onto a model and its CLIP, with an account of every key."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraFile
from ...lora_core.weave import AUTO, Schedule
from ...lora_core.weave.block_strengths import BlockStrengths
from ..comfy_bridge import Moves, model_names
from ..sockets.lora_file_node import LoraFileNode
from ..sockets.report_output import report_output
from ..sockets.socket_types import (
    CATEGORY,
    applied_outputs,
    blocks_input,
    clip_input,
    lora_file_input,
    lora_input,
    mode_input,
    model_input,
    on_unmatched_input,
    schedule_input,
    strength_input,
)
from .applying import apply_row


class ApplyLora(LoraFileNode):
    """Thin: sockets in, applying.apply_row, sockets out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomApply",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Applies a LoRA to the model and its CLIP, and says which layers it reached.",
            inputs=[
                model_input("the LoRA"),
                lora_file_input(),
                strength_input("strength_model", "the model"),
                strength_input("strength_clip", "the text encoders; without a CLIP it does nothing"),
                on_unmatched_input(),
                clip_input("the LoRA"),
                mode_input(),
                lora_input("What to apply."),
                schedule_input("the strength"),
                blocks_input("the strength"),
            ],
            outputs=applied_outputs("the LoRA"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        on_unmatched: str,
        clip: Any = None,
        mode: str = AUTO,
        lora: LoraFile | None = None,
        schedule: Schedule | None = None,
        blocks: BlockStrengths | None = None,
    ) -> io.NodeOutput:
        """Apply the LoRA that came in, else the file."""
        names = model_names(model, clip)
        strengths = (strength_model, strength_clip)
        file, moves = lora or lora_name, Moves(schedule)
        model, clip, report = apply_row(names, model, clip, file, strengths, on_unmatched, mode, moves, blocks)
        return report_output([report], model, clip)


NODES: list[type[io.ComfyNode]] = [ApplyLora]
