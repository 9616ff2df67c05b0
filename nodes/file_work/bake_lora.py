"""The node "Bake LoRA": LoRAs written into the weights of a checkpoint, as a new file."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.baking import Baking
from ...lora_core.loading.checkpoint import Checkpoint
from ..comfy_bridge import HostProgress
from ..host_files.checkpoint_files import (
    check_checkpoint,
    checkpoint_input,
    identify_checkpoint,
    open_checkpoint,
)
from ..host_files.new_files import check_target, output_path
from ..sockets.socket_types import CATEGORY, report_output_of
from .source_inputs import given_sources, short_names, source_inputs


class BakeLora(io.ComfyNode):
    """Thin: a checkpoint's name and LoRAs in, Baking, a new file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomBake",
            display_name="Bake LoRA",
            category=CATEGORY,
            description="Writes LoRAs into the weights of a checkpoint: a new file in the output folder, which the "
            "host's loaders list. All changes are summed before the one rounding, whose loss is told per weight.",
            inputs=[
                checkpoint_input("checkpoint", "The checkpoint to start from; it is left as it is."),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip="Name of the new file in output/checkpoints or output/diffusion_models, with or without "
                    "subfolders. Empty: the names of the checkpoint and the LoRAs.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of that name in the output folder. Off: a number is added.",
                ),
                io.Boolean.Input(
                    "check", default=False, tooltip="Read the new file again and compare every weight; takes as long."
                ),
                *source_inputs("to bake in"),
            ],
            outputs=[
                io.String.Output("name", display_name="name", tooltip="The new file, inside the output folder."),
                report_output_of("What became of the change in the checkpoint's dtype."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Refuse a missing or unreadable file before the run starts."""
        return check_checkpoint(checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **_: Any) -> Any:
        """Run again when the file changed."""
        return identify_checkpoint(checkpoint)

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        filename: str = "",
        overwrite: bool = False,
        check: bool = False,
        lora_stack: Any = None,
        **slots: Any,
    ) -> io.NodeOutput:
        """Bake; LoraError or an interruption leaves no file, and what was there as it was."""
        sources = given_sources(lora_stack, slots)
        name = filename or f"{Path(checkpoint).stem}+{short_names(sources)}"
        out = output_path(name, checkpoint.partition("/")[0], overwrite=overwrite)
        check_target(out.name, out.parent)
        baking = Baking(open_checkpoint(checkpoint), sources)
        baked = baking.write(out, replace=overwrite, progress=HostProgress())
        if check:
            baked = baking.check(Checkpoint.open(out), HostProgress())
        lines = [f"{out.name}:", *baked.lines(), *(["Read again and compared."] if check else [])]
        report = "\n".join(lines)
        return io.NodeOutput(f"{out.parent.name}/{out.name}", report, ui={"text": [report]})


NODES: list[type[io.ComfyNode]] = [BakeLora]
