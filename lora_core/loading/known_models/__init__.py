"""The layers of released models by family, so that a file can be converted without a checkpoint at hand.

Names and shapes are those of the state dicts of ComfyUI 0.33.0's model classes, made on the meta device.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from ...names.target_layer import UNET, ModelLayout, list_targets

FOLDER = Path(__file__).parent

# family -> (denoisers, text encoders). A file is held against each denoiser; the one that most of its layers fit is it.
MODELS: Mapping[str, tuple[Sequence[str], str | None]] = {
    "SD1.5": (("sd15_unet",), "sd15_clip"),
    "SD2": (("sd21_unet",), "sd21_clip"),
    "SDXL": (("sdxl_unet",), "sdxl_clip"),
    "the SDXL refiner": (("sdxl_refiner_unet",), "sdxl_refiner_clip"),
    "SD3": (("sd3_medium", "sd35_medium", "sd35_large"), "sd3_clip"),
    "Flux.1": (("flux1_dev",), "flux_clip"),
    "Flux.2": (("flux2_dev",), None),
    "Chroma": (("chroma",), None),
    "Wan": (("wan21_t2v_14b", "wan21_i2v_14b", "wan21_t2v_1_3b"), "wan_te"),
    "HunyuanVideo": (("hunyuan_video",), "hunyuan_video_te"),
    "Qwen-Image": (("qwen_image",), "qwen_image_te"),
    "Z-Image": (("zimage",), "zimage_te"),
    "Lumina2": (("lumina2",), None),
    "LTX-Video": (("ltxv_2b",), None),
    "PixArt": (("pixart_sigma",), None),
    "AuraFlow": (("auraflow",), None),
}


def known_layouts(family: str) -> Iterable[ModelLayout]:
    """The layers of each released model of a family, its text encoders included; none for a family not known."""
    denoisers, encoders = MODELS.get(family, ((), None))
    for denoiser in denoisers:
        yield list_targets({**_shapes(denoiser), **(_shapes(encoders) if encoders else {})})


def with_known_encoders(layout: ModelLayout) -> ModelLayout:
    """A model's layers, with those of its family's text encoders where the model came without any."""
    _, encoders = MODELS.get(layout.family.name, ((), None))
    if encoders is None or layout.parts - {UNET}:
        return layout
    targets = {path: target for path, target in list_targets(_shapes(encoders)).targets.items() if target.part != UNET}
    return ModelLayout({**layout.targets, **targets}, layout.family)


@cache
def _shapes(name: str) -> Mapping[str, tuple[int, ...]]:
    shapes = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in shapes.items()}
