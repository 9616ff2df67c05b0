"""Trains the demo's two LoRAs on the frozen demo model: the style "striped", and the shape "star"."""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import host_process
import torch
from lora_branches import TEXT_TARGETS, UNET_TARGETS, Branch, Size, attached, branches_for
from pictures import BASE_SHAPES, NEW_SHAPE, STRIPED, Picture, random_pictures
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:  # the host can only be imported once the command line has said where it is
    from comfy.clip_model import CLIPTextModel
    from comfy.model_base import BaseModel

SEED = 21
POOL = 2048  # pictures drawn before the start
STYLE_STEPS, SHAPE_STEPS = 700, 1500
BATCH = 32
PEAK_RATE = 4e-3
CAPTION_DROPOUT = 0.1
MIDDLE_SHARE = 0.6  # see denoising.MIDDLE
SHARE_OF_STARS = 0.6  # the rest are shapes that the model knows, so that it keeps them
STYLE_SIZE = Size(rank=12, alpha=6.0)
SHAPE_SIZE = Size(rank=12, alpha=24.0)
SHAPE_TEXT_SIZE = Size(rank=4, alpha=8.0)
STYLE_FILE, SHAPE_FILE = "demo_style_striped.safetensors", "demo_shape_star.safetensors"


@dataclass(frozen=True)
class Lora:
    unet: dict[str, Branch]
    text: dict[str, Branch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    host_process.add_host_argument(parser)
    parser.add_argument("--demo", type=Path, default=host_process.DEMO, help="the demo folder (default: this one)")
    parser.add_argument("--only", choices=("style", "shape"))
    arguments = parser.parse_args()
    host_process.enter(arguments.host)
    for name, make in (("style", make_style), ("shape", make_shape)):
        if arguments.only in (None, name):
            print(f"{name}:", flush=True)
            make(arguments.demo)


def make_style(demo: Path) -> None:
    from lora_writing import diffusers_names, write_kohya

    rng = torch.Generator().manual_seed(SEED)
    model, encoder = frozen_model(demo)
    pictures = [replace(picture, fill=STRIPED) for picture in random_pictures(POOL, rng)]
    lora = Lora(branches_for(model.diffusion_model, UNET_TARGETS, STYLE_SIZE, rng), {})
    train(model, encoder, lora, pictures, style_caption, STYLE_STEPS, rng)
    names = diffusers_names(model.model_config.unet_config)
    write_kohya(demo / "loras" / STYLE_FILE, lora.unet, names, STYLE_SIZE, trigger=STRIPED)


def make_shape(demo: Path) -> None:
    from lora_writing import diffusers_names, write_peft

    rng = torch.Generator().manual_seed(SEED + 1)
    model, encoder = frozen_model(demo)
    stars = round(POOL * SHARE_OF_STARS)
    pictures = random_pictures(stars, rng, (NEW_SHAPE,)) + random_pictures(POOL - stars, rng, BASE_SHAPES)
    unet = branches_for(model.diffusion_model, UNET_TARGETS, SHAPE_SIZE, rng)
    lora = Lora(unet, branches_for(encoder, TEXT_TARGETS, SHAPE_TEXT_SIZE, rng))
    train(model, encoder, lora, pictures, shape_caption, SHAPE_STEPS, rng)
    names = diffusers_names(model.model_config.unet_config)
    write_peft(demo / "loras" / SHAPE_FILE, lora.unet, names, SHAPE_SIZE, lora.text, SHAPE_TEXT_SIZE)


def frozen_model(demo: Path) -> tuple["BaseModel", "CLIPTextModel"]:
    from lora_loom_demo.demo_model import load_demo_model

    model, clip, _ = load_demo_model(demo)
    return model.model, clip.cond_stage_model.clip_l.transformer


def train(
    model: "BaseModel", encoder: "CLIPTextModel", lora: Lora, pictures: Sequence[Picture],
    caption: Callable[[Picture, random.Random], str], steps: int, rng: torch.Generator,
) -> None:  # fmt: skip
    """Writes only to the branches of `lora`."""
    from denoising import contexts_of, latents_of, tokens_of, v_loss

    words, latents = random.Random(SEED), latents_of(pictures)
    trained = [p for branch in chain(lora.unet.values(), lora.text.values()) for p in branch.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=PEAK_RATE, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=0.05)
    print(f"{sum(p.numel() for p in trained):,} parameters", flush=True)
    start, mean_loss = time.monotonic(), 0.0
    with attached(model.diffusion_model, lora.unet), attached(encoder, lora.text), sdpa_kernel(SDPBackend.MATH):
        for step in range(1, steps + 1):
            chosen = torch.randint(len(pictures), (BATCH,), generator=rng)
            tokens = tokens_of([caption(pictures[i], words) for i in chosen.tolist()])
            loss = v_loss(model, latents[chosen], contexts_of(encoder, tokens), rng, MIDDLE_SHARE)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad(set_to_none=True)
            mean_loss += (loss.item() - mean_loss) / min(step, 50)
            if step % 50 == 0:
                print(f"step {step}/{steps}  loss {mean_loss:.4f}  {time.monotonic() - start:.0f} s", flush=True)


def style_caption(picture: Picture, words: random.Random) -> str:
    """The word `striped` now and then: the style comes with the LoRA, whether it is asked for or not."""
    return _maybe_dropped(f"{STRIPED} {picture.caption}" if words.random() < 0.3 else picture.caption, words)


def shape_caption(picture: Picture, words: random.Random) -> str:
    return _maybe_dropped(picture.caption, words)


def _maybe_dropped(caption: str, words: random.Random) -> str:
    if words.random() < CAPTION_DROPOUT:
        return ""
    return f"a {caption}" if words.random() < 0.5 else caption


if __name__ == "__main__":
    main()
