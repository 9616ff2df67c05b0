"""The training objective: pictures as latents, captions as contexts, and the loss of the predicted v."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from comfy.clip_model import CLIPTextModel
from comfy.ldm.modules.attention import optimized_attention_for_device
from comfy.model_base import BaseModel
from lora_loom_demo.pixel_vae import BLOCK
from lora_loom_demo.words import DemoTokenizer
from pictures import Picture, draw
from torch import Tensor

SIDE = 32  # pixels of the small pictures that the latents hold
MIDDLE = (0.15, 0.75)  # of the timesteps: sigma 0.5 to 8, where colours are given already and the shape takes form
DRAWN_TOGETHER = 256  # pictures; bounds the memory


def latents_of(pictures: Sequence[Picture]) -> Tensor:
    """[n, 12, 16, 16] in -1..1"""
    parts = [draw(pictures[i : i + DRAWN_TOGETHER], SIDE) for i in range(0, len(pictures), DRAWN_TOGETHER)]
    return F.pixel_unshuffle(torch.cat(parts) * 2.0 - 1.0, BLOCK)


def tokens_of(captions: Sequence[str]) -> Tensor:
    """[n, tokens]"""
    tokenizer = DemoTokenizer()
    return torch.tensor(
        [[number for number, _ in tokenizer.tokenize_with_weights(caption)["l"][0]] for caption in captions]
    )


def contexts_of(encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """[n, tokens] -> [n, tokens, channels], as the host's forward.

    The host adds to the hidden states in place, which autograd cannot follow back.
    """
    text = encoder.text_model
    hidden = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding.weight
    length = tokens.shape[1]
    causal = torch.full((length, length), -torch.finfo(hidden.dtype).max).triu_(1)
    attention = optimized_attention_for_device(hidden.device, mask=True, small_input=True)
    for layer in text.encoder.layers:
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), causal, attention)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return text.final_layer_norm(hidden)


def v_loss(model: BaseModel, latents: Tensor, contexts: Tensor, rng: torch.Generator, middle_share: float) -> Tensor:
    """Mean of (v_predicted - v)^2 with v = (noise - sigma x) / sqrt(1 + sigma^2)."""
    sampling = model.model_sampling
    timesteps = (_spread(latents.shape[0], rng, middle_share) * sampling.num_timesteps).long()
    sigma = sampling.sigmas[timesteps][:, None, None, None]
    noise = torch.randn(latents.shape, generator=rng)
    norm = torch.sqrt(1.0 + sigma**2)
    noisy, target = (latents + sigma * noise) / norm, (noise - sigma * latents) / norm
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model.diffusion_model(noisy, timesteps.float(), context=contexts)
    return F.mse_loss(predicted.float(), target)


def _spread(count: int, rng: torch.Generator, middle_share: float) -> Tensor:
    """[count] in 0..1: the first ones evenly spread over the middle, the others over everything."""
    in_middle = round(count * middle_share)
    jitter = torch.rand(count, generator=rng)
    middle = (torch.arange(in_middle) + jitter[:in_middle]) / max(1, in_middle)
    whole = (torch.arange(count - in_middle) + jitter[in_middle:]) / max(1, count - in_middle)
    return torch.cat([MIDDLE[0] + (MIDDLE[1] - MIDDLE[0]) * middle, whole])
