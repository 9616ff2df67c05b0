"""The pack's nodes, listed for the host."""

import sys

from comfy_api.latest import ComfyExtension, io

from . import apply_lora, apply_stack, convert_lora, inspect_lora, lora_stack
from .http_routes import add_routes

NODES: list[type[io.ComfyNode]] = [
    *apply_lora.NODES,
    *lora_stack.NODES,
    *apply_stack.NODES,
    *inspect_lora.NODES,
    *convert_lora.NODES,
]


class LoraLoomExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack. Offers the page its routes as well: ComfyUI 0.3.75 never calls `on_load`."""
        host = sys.modules.get("server")
        if host is not None and hasattr(host.PromptServer, "instance"):  # none where the nodes are used without a page
            add_routes(host.PromptServer.instance.routes)
        return NODES
