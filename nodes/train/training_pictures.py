"""The node "Training Pictures": pictures and captions out of the graph, encoded for training."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...lora_core.training.dataset import GivenPicture, PictureSettings, picture_of_tensor
from ...lora_core.training.dataset.captions import captions_for
from ..sockets.socket_types import CATEGORY, ERROR
from .dataset_sockets import MEMORY, SKIP, dataset_output, dataset_outputs, encoder_inputs, setting_inputs

WHERE = "images"  # what the pictures are called in an error


class Dataset(io.ComfyNode):
    """Thin: images and text in, lora_core.dataset, a training set out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomDataset",
            display_name="Training Pictures",
            category=CATEGORY,
            description="Takes pictures out of the graph, a batch or a list of any sizes, with their captions, and "
            "encodes them for Train LoRA.",
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of pictures of different sizes."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One line per picture in their order, or one line for all. A list of texts counts as one "
                    "caption each. An empty line is a picture without caption.",
                ),
                *encoder_inputs(),
                *setting_inputs(),
            ],
            outputs=dataset_outputs(),
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        captions: Sequence[str],
        vae: Sequence[Any],
        clip: Sequence[Any],
        trigger: Sequence[str] = ("",),
        resolution: Sequence[int] = (512,),
        step: Sequence[int] = (64,),
        repeats: Sequence[int] = (1,),
        on_bad_picture: Sequence[str] = (ERROR,),
        cache: Sequence[str] = (MEMORY,),
    ) -> io.NodeOutput:
        """Cut and encode the pictures. Every input is a list here; all but the first two are read once."""
        pictures = [picture for batch in images for picture in batch]
        given = [
            GivenPicture(name=f"picture {number}", load=partial(picture_of_tensor, picture), caption=caption)
            for number, (picture, caption) in enumerate(
                zip(pictures, captions_for(len(pictures), captions), strict=True), start=1
            )
        ]
        settings = PictureSettings(
            resolution=resolution[0],
            step=step[0],
            trigger=trigger[0],
            repeats=repeats[0],
            skip_bad=on_bad_picture[0] == SKIP,
        )
        return dataset_output(WHERE, given, (vae[0], clip[0]), settings, cache[0])


NODES: list[type[io.ComfyNode]] = [Dataset]
