"""The node "Apply LoRA Stack": every row of a LORA_STACK onto a model and its CLIP."""

from typing import Any

from comfy_api.latest import io

from ..lora_core.key_report import KeyReport
from ..lora_core.lora_stack import parse_stack
from .applying import apply_row, report_output
from .comfy_bridge import model_names
from .socket_types import CATEGORY, LoraStack, on_unmatched_input


class ApplyStack(io.ComfyNode):
    """Thin: a stack of any pack in, applying.apply_row for each row, sockets out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomApplyStack",
            display_name="Apply LoRA Stack",
            category=CATEGORY,
            description="Applies all LoRA files of a stack to the model and its CLIP, and says which layers each reached.",
            inputs=[
                io.Model.Input("model", tooltip="The model to apply the stack to. It is left as it is; the output is changed."),
                LoraStack.Input(
                    "lora_stack",
                    tooltip="The stack, from LoRA Stack or another pack: lists of (name, model strength, CLIP strength), "
                    "with or without block weights behind, or of named fields.",
                ),
                on_unmatched_input(),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP to apply the stack to. Without it, text encoder layers are left out and listed."),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="MODEL", tooltip="The model with the stack."),
                io.Clip.Output("clip_out", display_name="CLIP", tooltip="The CLIP with the stack; empty if none came in."),
                io.String.Output("report", display_name="report", tooltip="For each file: matched, ignored and unmatched keys, and why."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, lora_stack: Any, on_unmatched: str, clip: Any = None) -> io.NodeOutput:
        """Apply row by row; the first row that can't be applied stops the run."""
        names = model_names(model, clip)
        reports: list[KeyReport] = []
        for row in parse_stack(lora_stack):
            strengths = (row.strength_model, row.strength_clip)
            model, clip, report = apply_row(names, model, clip, row.name, strengths, on_unmatched)
            reports.append(report.with_notes(row.notes))
        return report_output(reports, model, clip)


NODES: list[type[io.ComfyNode]] = [ApplyStack]
