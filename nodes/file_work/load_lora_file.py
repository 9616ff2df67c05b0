"""The node "Load LoRA File": a file out of the loras folders as a LORA for the nodes that make new ones of it."""

from comfy_api.latest import io

from ...lora_core import open_lora
from ..host_files.lora_folders import find_lora
from ..sockets.lora_file_node import LoraFileNode
from ..sockets.socket_types import CATEGORY, Lora, lora_file_input


class LoadLoraFile(LoraFileNode):
    """Thin: a name in, the opened file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomLoad",
            display_name="Load LoRA File",
            category=CATEGORY,
            description="Opens a LoRA file for Merge LoRA, Resize LoRA, Plot LoRA and others. Only its header is read "
            "now, the tensors when they are needed.",
            inputs=[lora_file_input()],
            outputs=[Lora.Output("lora", display_name="LORA", tooltip="The file.")],
        )

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        """Open the file."""
        return io.NodeOutput(open_lora(find_lora(lora_name)))


NODES: list[type[io.ComfyNode]] = [LoadLoraFile]
