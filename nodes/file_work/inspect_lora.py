"""The node "Inspect LoRA": what a file holds and which layers of a model it would reach, without applying it."""

import json
from typing import Any

from comfy_api.latest import io

from ...lora_core import FamilyMismatch, KeyReport, LoraFile, open_lora
from ...lora_core.files.metadata import read_about
from ...lora_core.loading.inspection import inspect_file
from ..comfy_bridge import ModelNames, model_names
from ..host_files.loading import CACHE
from ..host_files.lora_folders import find_lora
from ..sockets.lora_file_node import LoraFileNode
from ..sockets.report_output import shown
from ..sockets.socket_types import CATEGORY, lora_file_input


class InspectLora(LoraFileNode):
    """Thin: a file and perhaps a model in, the account out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomInspect",
            display_name="Inspect LoRA",
            category=CATEGORY,
            description="Shows what a LoRA file holds: names, family, rank, alpha, metadata, and, with a model "
            "connected, which layers it would reach. Nothing is applied.",
            inputs=[
                lora_file_input(),
                io.Model.Input(
                    "model", optional=True, tooltip="The model to hold the file against. It is not changed."
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP to hold the file against. It is not changed."),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="The account in words."),
                io.String.Output("json", display_name="json", tooltip="The account and the file's metadata as JSON."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora_name: str, model: Any = None, clip: Any = None) -> io.NodeOutput:
        """Account for the file's keys, against the model if there is one."""
        file = open_lora(find_lora(lora_name))
        if model is None:
            report = inspect_file(file)
        else:
            report = _against(lora_name, file, model_names(model, clip))
        about = read_about(file.header.metadata)
        text = report.text(about.lines())
        account = report.as_json() | {"about": about.as_json(), "metadata": dict(file.header.metadata)}
        ui = {"text": [text], "lora_loom_reports": [shown(report) | {"about": about.lines()}]}
        return io.NodeOutput(text, json.dumps(account, indent=1), ui=ui)


def _against(lora_name: str, file: LoraFile, names: ModelNames) -> KeyReport:
    """The account against a model; of a file for another family too, which only applying refuses."""
    try:
        return CACHE.get(lora_name, names).report
    except FamilyMismatch:
        return inspect_file(file, names.layout)


NODES: list[type[io.ComfyNode]] = [InspectLora]
