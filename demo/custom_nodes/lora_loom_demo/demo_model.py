"""Loads the demo's weights from its folder as the host's MODEL and CLIP, with the VAE that belongs to them."""

import os
from pathlib import Path

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file

from .pixel_vae import PixelVAE
from .text_encoder import new_clip
from .unet import new_unet, patcher_of

FOLDER_VARIABLE = "LORA_LOOM_DEMO_DIR"
UNET_FILE = Path("model") / "shapes_unet.safetensors"
TEXT_ENCODER_FILE = Path("model") / "shapes_text_encoder.safetensors"


class DemoWeightsMissing(FileNotFoundError):
    """The demo folder does not hold the weights."""


def demo_folder() -> Path:
    """Where model/ lies: the folder in LORA_LOOM_DEMO_DIR, else demo/, of which this pack is a part."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[2]


def load_demo_model(demo_dir: str | os.PathLike[str]) -> tuple[ModelPatcher, comfy.sd.CLIP, PixelVAE]:
    """A fresh model at each call, in float32, of ordinary tensors even where the host is in inference mode."""
    with torch.inference_mode(False):
        model, clip = new_unet(), new_clip()
        model.diffusion_model.load_state_dict(_read(Path(demo_dir) / UNET_FILE))
        # The host keeps a logit scale beside the text model, which nothing reads.
        clip.cond_stage_model.clip_l.transformer.load_state_dict(_read(Path(demo_dir) / TEXT_ENCODER_FILE))
        for parameter in (*model.parameters(), *clip.cond_stage_model.parameters()):
            parameter.requires_grad_(False)
        return patcher_of(model.eval()), clip, PixelVAE()


def _read(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise DemoWeightsMissing(
            f"{file} is missing. Set {FOLDER_VARIABLE} to the demo folder, or make it anew with demo/train_model.py."
        )
    return {key: tensor.float() for key, tensor in load_file(file).items()}
