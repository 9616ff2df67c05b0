"""The node "LoRA Strength Sweep": one batch with an image for each strength, or for each pair of strengths."""

from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraError, LoraFile
from ...lora_core.errors import BadSetting
from ...lora_core.weave.sweep import Axis, parse_strengths, sweep_of
from ..comfy_bridge import Moves, model_names
from ..host_files.lora_folders import identify_lora, lora_names
from ..sockets.lora_file_node import NOT_CONNECTED, check_file
from ..sockets.report_output import report_text
from ..sockets.socket_types import CATEGORY, REPORT, Lora, LoraSweep, lora_file_input, lora_input, model_input
from .applying import apply_row

NO_FILE = "None"  # of the second list of files
STRENGTHS_TIP = "Strengths of {file}: numbers as 0, 0.5, 1, ranges with both ends as 0..1 step 0.25, or both mixed. "


class StrengthSweep(io.ComfyNode):
    """Thin: one or two files with lists of strengths in, a batch's model and latent out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomSweep",
            display_name="LoRA Strength Sweep",
            category=CATEGORY,
            description="Samples a LoRA at many strengths in one batch from the same noise; with a second LoRA, every "
            "pair of strengths. LoRA Sweep Grid makes one labelled picture of the images.",
            inputs=[
                model_input("the LoRA"),
                io.Latent.Input("latent", tooltip="One latent image; the output holds it once for each cell."),
                lora_file_input(),
                io.String.Input(
                    "strengths",
                    default="0, 0.25, 0.5, 0.75, 1",
                    tooltip=STRENGTHS_TIP.format(file="the LoRA") + "One column of the grid for each.",
                ),
                lora_input("What to apply."),
                io.Combo.Input(
                    "lora_name_2",
                    options=[NO_FILE, *lora_names()],
                    default=NO_FILE,
                    optional=True,
                    tooltip="A second LoRA file, for the rows of the grid. None: the grid has one row.",
                ),
                io.String.Input(
                    "strengths_2",
                    default="",
                    optional=True,
                    tooltip=STRENGTHS_TIP.format(file="the second LoRA") + "One row of the grid for each.",
                ),
                Lora.Input(
                    "lora_2",
                    optional=True,
                    tooltip="A second LoRA from another node. With it connected, the second file is not read.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="MODEL", tooltip="The model, with a strength of its own for "
                                "each image of the batch. For a sampler, together with the latent."),
                io.Latent.Output("latent_out", display_name="LATENT", tooltip="The latent once for each cell of the "
                                 "grid, row by row; a sampler draws the same noise for all of them."),
                LoraSweep.Output("labels", display_name="labels", tooltip="What is in each cell, for LoRA Sweep Grid."),
                io.String.Output("report", display_name="report", tooltip="For each LoRA: matched, ignored and "
                                 "unmatched keys, and why."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls,
        lora_name: str | None = None,
        strengths: str | None = None,
        lora_name_2: str | None = None,
        strengths_2: str | None = None,
        lora: Any = NOT_CONNECTED,
    ) -> bool | str:
        """Refuse bad files and lists before the run starts; the host gives None for what is connected."""
        second = lora_name_2 not in (None, NO_FILE)
        reasons = [] if lora is not NOT_CONNECTED else [check_file(lora_name)]
        reasons += [check_file(lora_name_2)] if second else []
        reasons += [_check(text) for text in (strengths, strengths_2 if second else None) if text is not None]
        return "; ".join(str(reason) for reason in reasons if reason is not True) or True

    @classmethod
    def fingerprint_inputs(
        cls, lora_name: str | None = None, lora_name_2: str | None = None, lora: Any = NOT_CONNECTED, **_: Any
    ) -> Any:
        """Run again when a file changed."""
        names = [name for name in (None if lora is not NOT_CONNECTED else lora_name, lora_name_2) if name]
        return str([identify_lora(name) for name in names if name != NO_FILE])

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        lora_name: str,
        strengths: str,
        lora: LoraFile | None = None,
        lora_name_2: str = NO_FILE,
        strengths_2: str = "",
        lora_2: LoraFile | None = None,
    ) -> io.NodeOutput:
        """Apply both at strengths per image, and repeat the latent."""
        second = lora_2 or (None if lora_name_2 == NO_FILE else lora_name_2)
        if second is None and strengths_2.strip():
            raise BadSetting("strengths_2 is given without a second LoRA; choose lora_name_2, or leave it empty")
        rows = None if second is None else _axis(second, strengths_2)
        sweep = sweep_of(_axis(lora or lora_name, strengths), rows)
        latent = repeated(latent, sweep.cells)
        names = model_names(model, None)
        reports: list[Any] = []
        for file, factors in ((lora or lora_name, sweep.of_columns()), (second, sweep.of_rows())):
            if file is not None:
                moves = Moves(images=factors)
                model, _, report = apply_row(names, model, None, file, (1.0, 1.0), REPORT, moves=moves)
                reports.append(report)
        return io.NodeOutput(model, latent, sweep, report_text(reports))


def repeated(latent: dict[str, Any], times: int) -> dict[str, Any]:
    """A latent of one image as often as asked, all with the noise that it would get alone.

    The host draws noise by `batch_index`: images with the same number get the same noise.
    """
    samples = latent["samples"]  # [1, channels, *picture]
    if getattr(samples, "is_nested", False) or samples.shape[0] != 1:
        found = "several parts" if getattr(samples, "is_nested", False) else f"{samples.shape[0]} images"
        raise BadSetting(f"the latent has {found}; one image was expected. Take one out with Latent From Batch")
    result = {**latent, "samples": samples.repeat(times, *[1] * (samples.dim() - 1))}
    result["batch_index"] = [latent.get("batch_index", [0])[0]] * times
    return result


def _axis(file: str | LoraFile, strengths: str) -> Axis:
    name = file if isinstance(file, str) else file.name
    return Axis(name.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors"), parse_strengths(strengths))


def _check(strengths: str) -> bool | str:
    try:
        parse_strengths(strengths)
    except LoraError as error:
        return str(error)
    return True


NODES: list[type[io.ComfyNode]] = [StrengthSweep]
