"""The node "LoRA Stack": rows of files and strengths, handed on as a LORA_STACK that other packs read too."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraError
from ...lora_core.weave.stack_rows import as_tuples, parse_rows, parse_stack
from ..host_files.lora_folders import identify_lora, lora_names
from ..host_files.lora_notes import sidecar_of, trigger_words
from ..sockets.lora_file_node import check_file
from ..sockets.socket_types import CATEGORY, LoraStack


class LoraStackNode(io.ComfyNode):
    """Thin: the rows' text in, lora_core.lora_stack, LORA_STACK out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomStack",
            display_name="LoRA Stack",
            category=CATEGORY,
            description="A list of LoRA files with their strengths, to be applied together.",
            inputs=[
                io.String.Input(
                    "rows",
                    default="",
                    multiline=True,
                    tooltip="The rows, one per line: <lora:name:strength> or <lora:name:model strength:clip strength>. "
                    "Behind the strengths may stand :blocks=in4=0.5;out*=0 and then :schedule=0:0,0.3:1. "
                    "Strengths are factors from -100 to 100 without unit. A line that begins with # is off. "
                    'Also taken: a JSON list of {"on", "name", "strength", "strength_clip", '
                    '"blocks", "schedule"}.',
                ),
                LoraStack.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="Another stack, from this pack or another; its rows come first.",
                ),
            ],
            outputs=[
                LoraStack.Output("stack", display_name="LORA_STACK", tooltip="All rows that are on, in their order."),
                io.String.Output(
                    "trigger_words",
                    display_name="trigger words",
                    tooltip="The trigger words of all files that are on, joined by commas: those noted in the info "
                    "dialog, else those that a file names itself.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, rows: str | None = None) -> bool | str:
        """Refuse rows that can't be read, and files that can't be used, before the run starts."""
        if rows is None:
            return True
        try:
            checks = [check_file(name) for name in dict.fromkeys(row.name for row in parse_rows(rows) if row.on)]
        except LoraError as error:
            return str(error)
        return "; ".join(str(reason) for reason in checks if reason is not True) or True

    @classmethod
    def fingerprint_inputs(cls, rows: str | None = None, **_: Any) -> Any:
        """Run again when a file of the stack, or what is written beside it, changed."""
        if rows is None:
            return ""
        names = dict.fromkeys(row.name for row in parse_rows(rows) if row.on)
        return str([(identify_lora(name), sidecar_of(name)) for name in names])

    @classmethod
    def execute(cls, rows: str, lora_stack: Any = None) -> io.NodeOutput:
        """Join both stacks."""
        before = parse_stack(lora_stack) if lora_stack is not None else []
        own = [row for row in parse_rows(rows) if row.on]
        listed = {name: _listed(name) for name in dict.fromkeys(row.name for row in own)}
        rows_on = [*before, *(row.renamed(listed[row.name]) for row in own)]
        return io.NodeOutput(as_tuples(rows_on), ", ".join(trigger_words([row.name for row in rows_on])))


def _listed(name: str) -> str:
    """A file's name as other packs expect it: relative to the loras folders, with its ending."""
    path = identify_lora(name).path.as_posix()
    known = (listed for listed in lora_names() if path.endswith("/" + listed.replace("\\", "/")))
    return max(known, key=len, default=name)


NODES: list[type[io.ComfyNode]] = [LoraStackNode]
