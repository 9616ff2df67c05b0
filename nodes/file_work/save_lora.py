"""The node "Save LoRA": a LORA of another node as a file in the loras folder."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraFile
from ...lora_core.errors import BadSetting
from ...lora_core.file_work.writing.saving import TRIGGER_PHRASE, ready_to_save
from ...lora_core.file_work.writing.target_check import check_out
from ...lora_core.files.dtypes import DTYPES
from ...lora_core.names.key_dialects.spelling import SPELLINGS
from ..host_files.lora_folders import listed_name
from ..host_files.new_files import check_target, new_lora_path
from ..sockets.socket_types import CATEGORY, Lora, report_output_of
from .limit_inputs import AS_IT_IS, dtype_input
from .source_inputs import given_model, model_inputs


class SaveLora(io.ComfyNode):
    """Thin: a LORA and a name in, ready_to_save and write_adapter, a new file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomSave",
            display_name="Save LoRA",
            category=CATEGORY,
            description="Writes a LoRA of another node to the loras folder, in the names of a program. Applied, the "
            "file does what the LoRA did. A file that is there already is never overwritten.",
            inputs=[
                Lora.Input("lora", tooltip="The LoRA, such as Merge LoRA or Train LoRA gives it."),
                io.String.Input(
                    "filename",
                    default="my_lora",
                    tooltip="Name of the new file in the loras folder, with or without subfolders. A number is added "
                    "where a file of that name is there already.",
                ),
                io.Combo.Input(
                    "to",
                    options=[AS_IT_IS, *sorted(SPELLINGS)],
                    default=AS_IT_IS,
                    tooltip="Whose names to write. kohya: sd-scripts, A1111, Forge. comfy: ComfyUI's own paths. "
                    "diffusers: pipelines of Hugging Face. peft: a folder that PeftModel.from_pretrained reads. "
                    f'"{AS_IT_IS}": the names that the LoRA has.',
                ),
                dtype_input(AS_IT_IS),
                io.String.Input(
                    "trigger_words",
                    default="",
                    tooltip="Words that call for the LoRA in a prompt, kept in the file as modelspec.trigger_phrase, "
                    "where Inspect LoRA and sites find them.",
                ),
                io.String.Input(
                    "metadata",
                    default="",
                    multiline=True,
                    tooltip="Further notes for the file's header, one NAME=TEXT on a line, such as "
                    "modelspec.title=Ink wash",
                ),
                *model_inputs("Needed to change the names of a LoRA for a model that is not known by name."),
            ],
            outputs=[
                io.String.Output("name", display_name="name", tooltip="The new file, as loaders list it."),
                report_output_of("What was written, what rounding cost, and what was left out."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        lora: LoraFile,
        filename: str,
        to: str = AS_IT_IS,
        dtype: str = AS_IT_IS,
        trigger_words: str = "",
        metadata: str = "",
        model: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Write; LoraError, and no new file, where the dialect or the dtype can't hold the LoRA."""
        if not filename.strip():
            raise BadSetting("filename is empty: give the new file a name")
        check_target(filename)
        dialect = None if to == AS_IT_IS else to
        ready = ready_to_save(
            lora,
            dialect=dialect,
            dtype=DTYPES.get(dtype),
            metadata=_notes(trigger_words, metadata),
            layout=given_model(model, clip).layout,
        )
        is_pair = ready.content.peft_config is not None
        out = new_lora_path(filename, "peft" if is_pair else None)
        check_out(out, replace=False, configured=is_pair)
        ready.content.write(out)
        report = "\n".join([f"{listed_name(out)}:", *ready.lines()])
        return io.NodeOutput(listed_name(out), report, ui={"text": [report]})


def _notes(trigger_words: str, text: str) -> dict[str, str]:
    """NAME=TEXT lines as metadata. Raises BadSetting naming the lines that are none."""
    lines = [line for line in text.splitlines() if line.strip()]
    bad = [line for line in lines if not line.partition("=")[0].strip() or "=" not in line]
    if bad:
        raise BadSetting(f"metadata should have one NAME=TEXT on each line, but has {', '.join(map(repr, bad[:3]))}")
    notes = {name.strip(): said.strip() for name, _, said in (line.partition("=") for line in lines)}
    return notes | ({TRIGGER_PHRASE: trigger_words.strip()} if trigger_words.strip() else {})


NODES: list[type[io.ComfyNode]] = [SaveLora]
