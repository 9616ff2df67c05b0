"""The pack's nodes, listed for the host."""

import sys

from comfy_api.latest import ComfyExtension, io

from .apply import apply_lora, apply_stack, lora_stack, sweep_grid
from .apply import block_strengths as block_strengths_node
from .apply import strength_schedule as schedule_node
from .apply import strength_sweep as sweep
from .comfy_bridge import let_go_on_unload
from .file_work import (
    bake_lora,
    convert_lora,
    extract_lora,
    inspect_lora,
    load_lora_file,
    merge_lora,
    plot_lora,
    resize_lora,
    save_lora,
    similarity,
)
from .host_files.loading import CACHE
from .page.http_routes import add_routes
from .page.training_routes import add_routes as add_training_routes
from .sockets.checked_values import check_values
from .train import pictures_of_folder as dataset_folder
from .train import train_lora, train_settings
from .train import training_pictures as dataset

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
    *block_strengths_node.NODES,
    *sweep.NODES,
    *sweep_grid.NODES,
]
for _node in NODES:
    check_values(_node)


class LoraLoomExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack. Offers the page its routes as well: ComfyUI 0.3.75 never calls `on_load`."""
        host = sys.modules.get("server")
        if host is not None and hasattr(host.PromptServer, "instance"):  # none where the nodes are used without a page
            add_routes(host.PromptServer.instance.routes)
        add_training_routes()
        let_go_on_unload(CACHE.clear)
        return NODES
