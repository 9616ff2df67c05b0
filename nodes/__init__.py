"""The pack's nodes, listed for the host."""

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

    async def on_load(self) -> None:
        """Offer the page its routes."""
        from server import PromptServer  # the host's, at work

        add_routes(PromptServer.instance.routes)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
