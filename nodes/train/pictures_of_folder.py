"""The node "Training Pictures from Folder": the pictures of a folder with their captions, encoded for training."""

from functools import partial
from typing import Any

from comfy_api.latest import io

from ...lora_core import LoraError
from ...lora_core.training.dataset import GivenPicture, PictureSettings, find_pictures, folder_fingerprint, read_picture
from ..host_files.picture_folders import find_picture_folder, picture_folder_names
from ..sockets.socket_types import CATEGORY, ERROR
from .dataset_sockets import MEMORY, SKIP, dataset_output, dataset_outputs, encoder_inputs, setting_inputs


class DatasetFolder(io.ComfyNode):
    """Thin: a folder in, lora_core.dataset, a training set out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomDatasetFolder",
            display_name="Training Pictures from Folder",
            category=CATEGORY,
            description="Reads the pictures of a folder with their captions (.txt beside each, metadata.jsonl, or the "
            "name of a folder NUMBER_name), and encodes them for Train LoRA.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=picture_folder_names(),
                    tooltip="A folder with pictures in ComfyUI's input folder.",
                ),
                *encoder_inputs(),
                *setting_inputs(),
            ],
            outputs=dataset_outputs(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """Refuse a folder that is missing or empty before the run starts; a linked one is checked when it runs."""
        try:
            if folder is not None:
                find_pictures(find_picture_folder(folder))
        except LoraError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_: Any) -> Any:
        """Run again when a file in the folder changed."""
        return None if folder is None else folder_fingerprint(find_picture_folder(folder))

    @classmethod
    def execute(
        cls,
        folder: str,
        vae: Any,
        clip: Any,
        trigger: str = "",
        resolution: int = 512,
        step: int = 64,
        repeats: int = 1,
        on_bad_picture: str = ERROR,
        cache: str = MEMORY,
    ) -> io.NodeOutput:
        """Find, read, cut and encode the pictures."""
        found = find_pictures(find_picture_folder(folder))
        given = [
            GivenPicture(
                name=file.name,
                load=partial(read_picture, file.path),
                caption=file.caption,
                repeats=file.repeats,
                problem=file.problem,
            )
            for file in found.files
        ]
        settings = PictureSettings(
            resolution=resolution, step=step, trigger=trigger, repeats=repeats, skip_bad=on_bad_picture == SKIP
        )
        return dataset_output(folder, given, (vae, clip), settings, cache, found.notes)


NODES: list[type[io.ComfyNode]] = [DatasetFolder]
