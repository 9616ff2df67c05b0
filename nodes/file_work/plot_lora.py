"""The node "Plot LoRA": singular values of every layer, and energy of every block, as a picture."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.spectra import FileSpectra, spectra
from ..comfy_bridge import HostProgress
from ..pictures.spectra import draw_spectra
from ..sockets.socket_types import CATEGORY, report_output_of
from .source_inputs import given_model, given_sources, model_inputs, source_inputs


class PlotLora(io.ComfyNode):
    """Thin: LoRAs in, spectra, a picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomPlot",
            display_name="Plot LoRA",
            category=CATEGORY,
            description="Draws the singular values of every layer and the energy of every block of LoRAs, beside each "
            "other: of files, or of a LoRA before and after Resize LoRA or Merge LoRA.",
            inputs=[
                *source_inputs("to draw"),
                *model_inputs("Needed for DoRA, OFT, GLoRA and IA3, and for models not known by name."),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The picture."),
                report_output_of("Norm of each LoRA, and the rank that each share of its energy needs."),
            ],
        )

    @classmethod
    def execute(cls, lora_stack: Any = None, model: Any = None, clip: Any = None, **slots: Any) -> io.NodeOutput:
        """Decompose and draw."""
        sources, given = given_sources(lora_stack, slots), given_model(model, clip)
        found = spectra(sources, given.layout, read=given.read, progress=HostProgress())
        report = "\n".join(_line(one) for one in found)
        return io.NodeOutput(draw_spectra(found), report, ui={"text": [report]})


def _line(found: FileSpectra) -> str:
    ranks = ", ".join(f"{share:.0%} of its energy in rank {found.rank_for(share)}" for share in (0.9, 0.99))
    return f"{found.name}: {len(found.layers)} matrices, norm {found.energy**0.5:.4g}; every layer has {ranks}."


NODES: list[type[io.ComfyNode]] = [PlotLora]
