"""The node "Extract LoRA": the difference of two checkpoints as a LoRA."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.file_work.extraction import extract
from ...lora_core.files.dtypes import DTYPES
from ...lora_core.names.key_dialects.spelling import SPELLINGS
from ..comfy_bridge import HostProgress
from ..host_files.checkpoint_files import check_checkpoint, checkpoint_input, identify_checkpoint, open_checkpoint
from ..sockets.socket_types import CATEGORY, lora_output, report_output_of
from .limit_inputs import limit_inputs, limits_of


class ExtractLora(io.ComfyNode):
    """Thin: two file names and limits in, extract, a LORA in memory out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomExtract",
            display_name="Extract LoRA",
            category=CATEGORY,
            description="Makes a LoRA of what one checkpoint differs by from another, of the denoiser and the text "
            "encoders. One layer is in memory at a time; the error is measured, not estimated.",
            inputs=[
                checkpoint_input("base", "The checkpoint as it was, of the host's checkpoints or diffusion_models."),
                checkpoint_input("tuned", "The checkpoint that the LoRA is to make of it."),
                *limit_inputs(rank=64, with_size=False),
                io.Boolean.Input(
                    "cut_noise",
                    default=True,
                    tooltip="Leave out what the rounding of the checkpoints alone could have made.",
                ),
                io.Combo.Input(
                    "to",
                    options=sorted(SPELLINGS),
                    default="kohya",
                    tooltip="Whose names the LoRA gets; see Save LoRA.",
                ),
                io.Combo.Input(
                    "dtype", options=list(DTYPES), default="fp16", tooltip="What the numbers of the LoRA are stored as."
                ),
            ],
            outputs=[lora_output("The difference, in memory."), report_output_of("Kept energy per block, error.")],
        )

    @classmethod
    def validate_inputs(cls, base: str | None = None, tuned: str | None = None) -> bool | str:
        """Refuse a missing or unreadable file before the run starts."""
        reasons = [check for check in (check_checkpoint(base), check_checkpoint(tuned)) if check is not True]
        return "; ".join(str(reason) for reason in reasons) or True

    @classmethod
    def fingerprint_inputs(cls, base: str | None = None, tuned: str | None = None, **_: Any) -> Any:
        """Run again when a file changed."""
        return identify_checkpoint(base) + identify_checkpoint(tuned)

    @classmethod
    def execute(
        cls,
        base: str,
        tuned: str,
        rank: int,
        energy: float,
        max_error: float,
        cut_noise: bool = True,
        to: str = "kohya",
        dtype: str = "fp16",
    ) -> io.NodeOutput:
        """Extract; LoraError where the two don't fit each other."""
        before, after = open_checkpoint(base), open_checkpoint(tuned)
        limits = limits_of(rank, energy, max_error)
        made = extract(
            before, after, limits, dialect=to, dtype=DTYPES[dtype], cut_noise=cut_noise, progress=HostProgress()
        )
        report = "\n".join([f"{after.name} - {before.name}:", *made.lines()])
        return io.NodeOutput(made.in_memory(f"{after.name} - {before.name}"), report, ui={"text": [report]})


NODES: list[type[io.ComfyNode]] = [ExtractLora]
