"""The pack's nodes, listed for the host."""

import sys

from comfy_api.latest import ComfyExtension, io

from . import (
    apply_lora,
    apply_stack,
    bake_lora,
    convert_lora,
    dataset,
    dataset_folder,
    extract_lora,
    inspect_lora,
    load_lora_file,
    lora_stack,
    merge_lora,
    plot_lora,
    resize_lora,
    save_lora,
    schedule_node,
    similarity,
    sweep,
    sweep_grid,
    train_lora,
    train_settings,
)
from .http_routes import add_routes
from .training_routes import add_routes as add_training_routes

NODES: list[type[io.ComfyNode]] = [
    *apply_lora.NODES,
    *lora_stack.NODES,
    *apply_stack.NODES,
    *inspect_lora.NODES,
    *convert_lora.NODES,
    *dataset_folder.NODES,
    *dataset.NODES,
    *train_lora.NODES,
    *train_settings.NODES,
    *load_lora_file.NODES,
    *save_lora.NODES,
    *merge_lora.NODES,
    *resize_lora.NODES,
    *extract_lora.NODES,
    *bake_lora.NODES,
    *similarity.NODES,
    *plot_lora.NODES,
    *schedule_node.NODES,
    *sweep.NODES,
    *sweep_grid.NODES,
]


class LoraLoomExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack. Offers the page its routes as well: ComfyUI 0.3.75 never calls `on_load`."""
        host = sys.modules.get("server")
        if host is not None and hasattr(host.PromptServer, "instance"):  # none where the nodes are used without a page
            add_routes(host.PromptServer.instance.routes)
        add_training_routes()
        return NODES
