"""The node "Convert LoRA": a file said in another trainer's names, written beside the others."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...lora_core import open_lora
from ...lora_core.file_work.writing.conversion import convert
from ...lora_core.names.key_dialects.spelling import SPELLINGS
from ..comfy_bridge import model_names
from ..host_files.lora_folders import find_lora, listed_name
from ..host_files.new_files import check_target, new_lora_path
from ..sockets.lora_file_node import LoraFileNode
from ..sockets.socket_types import CATEGORY, lora_file_input


class ConvertLora(LoraFileNode):
    """Thin: a file and a dialect in, a new file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomConvert",
            display_name="Convert LoRA",
            category=CATEGORY,
            description="Writes a LoRA file in another program's names, without loss: tensors are moved, split or "
            "joined exactly, alpha and metadata are kept. The file given is left as it is.",
            inputs=[
                lora_file_input(),
                io.Combo.Input(
                    "to",
                    options=sorted(SPELLINGS),
                    default="kohya",
                    tooltip="Whose names to write. kohya: sd-scripts, A1111, Forge. comfy: ComfyUI's own paths. "
                    "diffusers: pipelines of Hugging Face. peft: a folder that PeftModel.from_pretrained reads.",
                ),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip="Name of the new file in the loras folder, with or without subfolders. Empty: the old "
                    "name and the dialect. A file that is there already is never overwritten; a number is added.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the file is for. Needed only for families whose layers are not known by "
                    "name; the report says so.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Its CLIP, for text encoders that are not known by name."),
            ],
            outputs=[
                io.String.Output("name", display_name="name", tooltip="The new file, as loaders list it."),
                io.String.Output("report", display_name="report", tooltip="What was written, and what was left out."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora_name: str, to: str, filename: str = "", model: Any = None, clip: Any = None) -> io.NodeOutput:
        """Convert and write; LoraError, and no new file, when some layers can't be said in the dialect."""
        name = filename or f"{Path(lora_name).with_suffix('')}_{to}"
        check_target(name)
        path = find_lora(lora_name)
        layout = None if model is None else model_names(model, clip).layout
        converted = convert(open_lora(path), to, layout)
        out = new_lora_path(name, to)
        converted.content.write(out)
        lines = [f"{listed_name(out)}: {converted.layers} layers in the names of {to}."]
        lines += [f"Note: {note}." for note in converted.notes]
        lines += [f"Left out: {note}" for note in converted.dropped]
        report = "\n".join(lines)
        return io.NodeOutput(listed_name(out), report, ui={"text": [report]})


NODES: list[type[io.ComfyNode]] = [ConvertLora]
