"""The node "LoRA Similarity": how alike LoRAs are, in words and as a picture."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.similarity import similarity
from ..comfy_bridge import HostProgress
from ..pictures.likeness import draw_likeness
from ..sockets.socket_types import CATEGORY, report_output_of
from .source_inputs import given_model, given_sources, model_inputs, source_inputs


class SimilarityNode(io.ComfyNode):
    """Thin: LoRAs in, similarity, words and a picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomSimilarity",
            display_name="LoRA Similarity",
            category=CATEGORY,
            description="Tells how alike LoRAs are and where they work against each other: angles between the changes, "
            "shared directions, norms, for all of them and for each block of the model.",
            inputs=[
                *source_inputs("to compare"),
                *model_inputs("Needed for DoRA, OFT, GLoRA and IA3, and for models not known by name."),
            ],
            outputs=[
                report_output_of("Norms, cosines and shared directions."),
                io.Image.Output("image", display_name="IMAGE", tooltip="Cosines of all pairs, and of each block."),
            ],
        )

    @classmethod
    def execute(cls, lora_stack: Any = None, model: Any = None, clip: Any = None, **slots: Any) -> io.NodeOutput:
        """Compare and draw."""
        sources, given = given_sources(lora_stack, slots), given_model(model, clip)
        found = similarity(sources, given.layout, read=given.read, progress=HostProgress())
        report = "\n".join(found.lines())
        return io.NodeOutput(report, draw_likeness(found), ui={"text": [report]})


NODES: list[type[io.ComfyNode]] = [SimilarityNode]
