"""Makes the demo's base model from nothing: trains the UNet with its text encoder on drawn pictures, on one CPU core.

Phase 1 begins with random weights, phase 2 with those that phase 1 saved.
"""

import argparse
import copy
import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import host_process
import torch
from pictures import Picture, random_pictures
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:  # the host can only be imported once the command line has said where it is
    from comfy.clip_model import CLIPTextModel
    from comfy.model_base import BaseModel

SEED = 20
POOL = 8192  # pictures drawn before the start
BATCH = 32
WARM_UP = 100  # steps
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.12  # so that an empty negative prompt means something
STEPS_BETWEEN_SAVES = 500


@dataclass(frozen=True)
class Phase:
    steps: int
    rate_steps: int  # after which the rate would have come down; a phase may end before
    peak_rate: float
    middle_share: float  # of the timesteps, drawn where the shape is decided (see denoising.MIDDLE)


PHASES = {
    1: Phase(steps=3000, rate_steps=5000, peak_rate=1.5e-3, middle_share=0.0),
    2: Phase(steps=4000, rate_steps=4000, peak_rate=1.2e-3, middle_share=0.7),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_host_argument(parser)
    parser.add_argument("--phase", type=int, choices=PHASES, help="only this one (default: both)")
    parser.add_argument("--out", type=Path, default=host_process.DEMO, help="the demo folder (default: this one)")
    arguments = parser.parse_args()
    host_process.enter(arguments.host)
    for number, phase in PHASES.items():
        if arguments.phase in (None, number):
            model, encoder = initial_weights() if number == 1 else saved_weights(arguments.out)
            train(model, encoder, phase, SEED + number, arguments.out)


def train(model: "BaseModel", encoder: "CLIPTextModel", phase: Phase, seed: int, out: Path) -> None:
    from denoising import contexts_of, latents_of, tokens_of, v_loss

    rng, words = torch.Generator().manual_seed(seed), random.Random(seed)
    trained = nn.ModuleDict({"unet": model.diffusion_model, "text": encoder}).requires_grad_(True).train()
    average = copy.deepcopy(trained).requires_grad_(False)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=phase.peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
    pictures = random_pictures(POOL, rng)
    latents = latents_of(pictures)
    print(f"{sum(p.numel() for p in trained.parameters()):,} parameters, {POOL} pictures", flush=True)
    start, mean_loss = time.monotonic(), 0.0
    for step in range(1, phase.steps + 1):
        set_rate(optimiser, rate_at(step, phase))
        chosen = torch.randint(POOL, (BATCH,), generator=rng)
        tokens = tokens_of([spoken(pictures[i], words) for i in chosen.tolist()])
        # Backward through torch's fused attention takes 20 times as long as through the plain formula, on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            loss = v_loss(model, latents[chosen], contexts_of(encoder, tokens), rng, phase.middle_share)
            loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        follow_(average, trained, min(EMA_DECAY, step / (step + 20)))
        mean_loss += (loss.item() - mean_loss) / min(step, 50)
        if step % 50 == 0:
            print(f"step {step}/{phase.steps}  loss {mean_loss:.4f}  {time.monotonic() - start:.0f} s", flush=True)
        if step % STEPS_BETWEEN_SAVES == 0 or step == phase.steps:
            save(average, out)


def initial_weights() -> tuple["BaseModel", "CLIPTextModel"]:
    """The host leaves its layers' weights as the memory was: every one is drawn here."""
    from lora_loom_demo.text_encoder import new_clip
    from lora_loom_demo.unet import new_unet

    torch.manual_seed(SEED)  # torch's initialisers take no generator
    model, encoder = new_unet(), new_clip().cond_stage_model.clip_l.transformer
    for name, module in (*model.diffusion_model.named_modules(), *encoder.named_modules()):
        match module:
            case nn.Embedding():
                nn.init.normal_(module.weight, std=0.5)
            case nn.Linear() | nn.Conv2d():
                nn.init.kaiming_uniform_(module.weight, a=5**0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.GroupNorm() | nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if name.endswith(("out_layers.3", "proj_out", "out.2")):  # each block begins as the identity
            nn.init.zeros_(module.weight)
    return model, encoder


def saved_weights(demo: Path) -> tuple["BaseModel", "CLIPTextModel"]:
    from lora_loom_demo.demo_model import load_demo_model

    model, clip, _ = load_demo_model(demo)
    return model.model, clip.cond_stage_model.clip_l.transformer


def spoken(picture: Picture, words: random.Random) -> str:
    """The caption in one of the forms that people type."""
    if words.random() < CAPTION_DROPOUT:
        return ""
    caption = picture.caption
    if words.random() < 0.08:
        caption = caption.split(" on ")[0]
    return f"a {caption}" if words.random() < 0.5 else caption


def rate_at(step: int, phase: Phase) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / phase.rate_steps))
    return phase.peak_rate * min(1.0, step / WARM_UP) * fall


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow_(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """In place: average = decay * average + (1 - decay) * trained."""
    for mean, now in zip(average.parameters(), trained.parameters(), strict=True):
        mean.lerp_(now, 1.0 - decay)


def save(average: nn.ModuleDict, out: Path) -> None:
    from lora_loom_demo.demo_model import TEXT_ENCODER_FILE, UNET_FILE

    for name, file in (("unet", UNET_FILE), ("text", TEXT_ENCODER_FILE)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(half(average[name].state_dict().items()), out / file, metadata={"format": "pt"})


def half(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {key: tensor.half().contiguous() for key, tensor in tensors}


if __name__ == "__main__":
    main()
