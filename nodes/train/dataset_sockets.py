"""What the nodes that make training sets share: their settings, their outputs, and how pictures are prepared."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ...lora_core.training.dataset import EncodedCache, GivenPicture, MemoryCache, PictureSettings, prepare
from ...lora_core.training.dataset.caching import MEMORY_BYTES
from ..comfy_bridge import encoders_of, progress
from ..host_files.picture_folders import CACHE_FOLDER, cache_folder
from ..sockets.socket_types import ERROR, LoraDataset

SKIP = "skip"
MEMORY, DISK = "memory", "disk"
CACHE = MemoryCache(MEMORY_BYTES)  # for all runs; V3 nodes have no state of their own


def encoder_inputs() -> list[Any]:
    """The VAE and the CLIP that encode."""
    return [
        io.Vae.Input("vae", tooltip="The VAE of the model that is to be trained. It encodes the pictures."),
        io.Clip.Input("clip", tooltip="The CLIP of the model that is to be trained. It encodes the captions."),
    ]


def setting_inputs() -> list[Any]:
    """How the pictures are seen in training."""
    return [
        io.String.Input(
            "trigger",
            default="",
            tooltip="A word for what is learned, put in front of every caption that does not have it yet; use it in "
            "prompts later. A rare word works best. Empty: captions stay as they are.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=64,
            max=4096,
            step=8,
            tooltip="Side in pixels, 64 to 4096, of the square with as many pixels as each picture is trained at. "
            "SD 1.5: 512, SDXL and later: 1024. Pictures keep about their aspect ratio; larger costs more.",
        ),
        io.Int.Input(
            "step",
            default=64,
            min=8,
            max=512,
            step=8,
            tooltip="Sides are multiples of this number of pixels, 8 to 512. A smaller step cuts less away and makes "
            "more different sizes, of which fewer pictures go into one batch.",
        ),
        io.Int.Input(
            "repeats",
            default=1,
            min=1,
            max=1000,
            tooltip="Times each picture is seen in one epoch, 1 to 1000; multiplied with the number in the name of a "
            "folder NUMBER_name.",
        ),
        io.Combo.Input(
            "on_bad_picture",
            options=[ERROR, SKIP],
            default=ERROR,
            tooltip='Pictures that can\'t be used: "error" stops the run and names all of them, "skip" trains without '
            "them and lists them in the report.",
        ),
        io.Combo.Input(
            "cache",
            options=[MEMORY, DISK],
            default=MEMORY,
            tooltip=f"Where encoded pictures and captions are kept for the next run: memory until ComfyUI ends, at "
            f"most {MEMORY_BYTES // 1024**3} GB; disk also in output/{CACHE_FOLDER}, which you may delete at any time.",
        ),
    ]


def dataset_outputs() -> list[Any]:
    """The training set, the report and the contact sheet."""
    return [
        LoraDataset.Output("dataset", display_name="dataset", tooltip="The pictures, ready for Train LoRA."),
        io.String.Output(
            "report", display_name="report", tooltip="How many pictures, at which sizes, and what to know of them."
        ),
        io.Image.Output(
            "preview", display_name="preview", tooltip="The first 100 pictures as they are seen in training."
        ),
    ]


def dataset_output(
    where: str,
    given: Sequence[GivenPicture],
    encoders: tuple[Any, Any],
    settings: PictureSettings,
    cache: str,
    notes: Sequence[str] = (),
) -> io.NodeOutput:
    """Prepare the pictures with a VAE and a CLIP, and show the report. Raises LoraError, see prepare."""
    kept = EncodedCache(CACHE, cache_folder() if cache == DISK else None)
    made = prepare(where, given, encoders_of(*encoders), settings, kept, progress(len(given)), notes)
    return io.NodeOutput(made.training_set, made.report, made.sheet[None], ui={"text": [made.report]})
