"""The node "Resize LoRA": the same change in less rank, with the least error there is."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraFile, open_lora
from ...lora_core.file_work.resizing import resize
from ..comfy_bridge import HostProgress
from ..host_files.lora_folders import find_lora
from ..sockets.lora_file_node import LoraFileNode
from ..sockets.socket_types import CATEGORY, lora_file_input, lora_input, lora_output, report_output_of
from .limit_inputs import limit_inputs, limits_of, size_of
from .source_inputs import given_model, model_inputs


class ResizeLora(LoraFileNode):
    """Thin: a LoRA and limits in, resize, a LORA in memory out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomResize",
            display_name="Resize LoRA",
            category=CATEGORY,
            description="Cuts the ranks of a LoRA, each layer to the nearest there is, and says what is left of each "
            "block. The strictest limit counts. Also turns LoHa, LoKr and others into plain LoRA.",
            inputs=[
                lora_file_input(),
                *limit_inputs(rank=16, with_size=True),
                lora_input("What to resize."),
                *model_inputs("Needed for DoRA, OFT, GLoRA and IA3, and for models not known by name."),
            ],
            outputs=[lora_output("The smaller LoRA, in memory."), report_output_of("Kept energy per block, error.")],
        )

    @classmethod
    def execute(
        cls,
        lora_name: str,
        rank: int,
        energy: float,
        max_error: float,
        size: float,
        lora: LoraFile | None = None,
        model: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Resize the LoRA that came in, else the file."""
        file, given = lora or open_lora(find_lora(lora_name)), given_model(model, clip)
        limits = limits_of(rank, energy, max_error)
        resized = resize(file, limits, given.layout, size=size_of(size), read=given.read, progress=HostProgress())
        report = "\n".join([f"{file.name}, resized:", *resized.lines()])
        return io.NodeOutput(resized.in_memory(f"resized {file.name}"), report, ui={"text": [report]})


NODES: list[type[io.ComfyNode]] = [ResizeLora]
