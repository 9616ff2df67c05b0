"""The node "Apply LoRA Stack": every row of a LORA_STACK onto a model and its CLIP."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.names.key_report import KeyReport
from ...lora_core.weave import AUTO, Schedule
from ...lora_core.weave.stack_rows import parse_stack
from ..comfy_bridge import Moves, model_names
from ..sockets.report_output import report_output
from ..sockets.socket_types import (
    CATEGORY,
    LoraStack,
    applied_outputs,
    clip_input,
    mode_input,
    model_input,
    on_unmatched_input,
    schedule_input,
)
from .applying import apply_row

OWN_SCHEDULE = "the row's own schedule counts, not the one of the node"


class ApplyStack(io.ComfyNode):
    """Thin: a stack of any pack in, applying.apply_row for each row, sockets out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomApplyStack",
            display_name="Apply LoRA Stack",
            category=CATEGORY,
            description="Applies all LoRA files of a stack to the model and its CLIP, and says what each reached.",
            inputs=[
                model_input("the stack"),
                LoraStack.Input(
                    "lora_stack",
                    tooltip="A stack of this pack or another: rows of (name, model strength, CLIP strength), "
                    "with or without block weights behind, or of named fields.",
                ),
                on_unmatched_input(),
                clip_input("the stack"),
                mode_input(),
                schedule_input("every strength of the stack"),
            ],
            outputs=applied_outputs("the stack"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_stack: Any,
        on_unmatched: str,
        clip: Any = None,
        mode: str = AUTO,
        schedule: Schedule | None = None,
    ) -> io.NodeOutput:
        """Apply row by row; the first row that can't be applied stops the run."""
        names = model_names(model, clip)
        reports: list[KeyReport] = []
        for row in parse_stack(lora_stack):
            strengths = (row.strength_model, row.strength_clip)
            moves = Moves(row.schedule or schedule)
            model, clip, report = apply_row(
                names, model, clip, row.name, strengths, on_unmatched, mode, moves, row.blocks
            )
            notes = [OWN_SCHEDULE] if row.schedule and schedule else []
            reports.append(report.with_notes([*row.notes, *notes]))
        return report_output(reports, model, clip)


NODES: list[type[io.ComfyNode]] = [ApplyStack]
