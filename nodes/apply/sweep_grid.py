"""The node "LoRA Sweep Grid": the images of a sweep as one labelled picture."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.errors import BadSetting
from ...lora_core.weave.sweep import Sweep
from ..pictures.sweep_grid import draw_sweep
from ..sockets.socket_types import CATEGORY, LoraSweep


class SweepGrid(io.ComfyNode):
    """Thin: a batch of images and their labels in, draw_sweep, one picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomSweepGrid",
            display_name="LoRA Sweep Grid",
            category=CATEGORY,
            description="Puts the images of LoRA Strength Sweep into one picture, with the strengths beside them.",
            inputs=[
                io.Image.Input("images", tooltip="The decoded batch, one image for each cell of the sweep."),
                LoraSweep.Input("labels", tooltip="The labels of LoRA Strength Sweep."),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="The grid, as one picture.")],
        )

    @classmethod
    def execute(cls, images: Any, labels: Sweep) -> io.NodeOutput:
        """Draw; BadSetting if these are not the sweep's images."""
        if len(images) != labels.cells:
            rows, columns = labels.shape
            raise BadSetting(
                f"{labels.cells} images were expected, {columns} columns by {rows} rows, found {len(images)}. Connect "
                f"the decoded images of the sweep's own latent"
            )
        return io.NodeOutput(draw_sweep(images, labels))


NODES: list[type[io.ComfyNode]] = [SweepGrid]
