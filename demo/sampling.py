"""Makes pictures of captions with the host's own sampler, with any LoRAs merged into the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from lora_loom_demo.demo_model import load_demo_model
from lora_loom_demo.pixel_vae import PixelVAE
from lora_reading import host_patches
from torch import Tensor

STEPS = 16
CFG = 3.0
SAMPLER = "euler"
SCHEDULER = "simple"
SIDE = 128  # pixels
LATENT_SHAPE = (1, 12, SIDE // 8, SIDE // 8)


@dataclass(frozen=True)
class Loaded:
    """The demo model with some LoRAs in it."""

    model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: PixelVAE

    @classmethod
    def from_folder(cls, demo: Path) -> "Loaded":
        return cls(*load_demo_model(demo))

    def with_loras(self, strengths: Mapping[Path, float]) -> "Loaded":
        model, clip = self.model.clone(), self.clip.clone()
        for file, strength in strengths.items():
            patches = host_patches(file, model)
            model.add_patches(patches.unet, strength)
            clip.add_patches(patches.text_encoder, strength)
        return Loaded(model, clip, self.vae)

    def with_trained(self, strengths: Mapping[Path, float]) -> "Loaded":
        """With LoRAs that were trained in a graph, read by the host's own loader."""
        model, clip = self.model, self.clip
        for file, strength in strengths.items():
            tensors = comfy.utils.load_torch_file(str(file), safe_load=True)
            model, clip = comfy.sd.load_lora_for_models(model, clip, tensors, strength, strength)
        return Loaded(model, clip, self.vae)

    def pictures(self, caption: str, seeds: Sequence[int], cfg: float = CFG, steps: int = STEPS) -> Tensor:
        """[seeds, 3, 128, 128] in 0..1; each is what a KSampler with that seed gives."""
        empty = torch.zeros(len(seeds), *LATENT_SHAPE[1:])
        noise = torch.cat([comfy.sample.prepare_noise(torch.zeros(LATENT_SHAPE), seed) for seed in seeds])
        positive, negative = (self.clip.encode_from_tokens_scheduled(self.clip.tokenize(t)) for t in (caption, ""))
        latents = comfy.sample.sample(
            self.model,
            noise,
            steps,
            cfg,
            SAMPLER,
            SCHEDULER,
            positive,
            negative,
            empty,
            disable_pbar=True,
            seed=seeds[0],
        )
        return self.vae.decode(latents).movedim(-1, 1)
