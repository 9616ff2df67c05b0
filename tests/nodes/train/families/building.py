"""Builds a tiny model by the host's own loading path, so that its weights are what a loader node leaves."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from lora_pack.lora_core.training.dataset import TrainSample
from torch import Tensor, nn

from .recipe import Recipe

TABLES = (".rope", "rotary", "inv_freq", "freqs", ".seq")  # in names of what is computed, not learnt
NEAR_ONE = ("weight", "scale", "gamma")  # endings of one-dimensional weights that multiply


def is_of_host(recipe: Recipe) -> bool:
    """Whether the host has such models."""
    import comfy.supported_models

    return hasattr(comfy.supported_models, recipe.host_class)


def build(recipe: Recipe, monkeypatch: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """A patcher on a model of the recipe with random weights."""
    import comfy.model_detection
    import comfy.sd

    with torch.inference_mode(False):
        base = _config(recipe).get_model(dict(recipe.state), "", device="cpu")
        _draw(base.diffusion_model)
        weights = {name: tensor.clone() for name, tensor in base.diffusion_model.state_dict().items()}
    config = _config(recipe)
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    with monkeypatch.context() as patched:
        patched.setattr(comfy.model_detection, "model_config_from_unet", lambda *_, **__: config)
        found = comfy.sd.load_diffusion_model_state_dict({**weights, **recipe.state}, model_options={"dtype": dtype})
    assert found is not None
    return found


def _config(recipe: Recipe) -> Any:
    """The host's configuration object, whatever sizes it expects."""
    import comfy.supported_models

    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    attributes = {"unet_config": {}, "unet_extra_config": {}, "supported_inference_dtypes": dtypes}
    base = getattr(comfy.supported_models, recipe.host_class)
    settings = dict(recipe.config) | (recipe.newer if _is_newer() else {})
    config = type(f"Tiny{recipe.host_class}", (base,), attributes)(settings)
    config.set_inference_dtype(torch.float32, None)
    return config


def _is_newer() -> bool:
    """Whether the host's Flux has the settings that came with Flux.2's text."""
    from comfy.ldm.flux.model import FluxParams

    return "txt_ids_dims" in inspect.signature(FluxParams).parameters


def _draw(module: nn.Module) -> None:
    """Weights of a size that a trained model could have, so that every layer matters."""
    rng = torch.Generator().manual_seed(0)
    tensors: Mapping[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or any(part in name for part in TABLES):
                continue
            drawn = torch.randn(tensor.shape, generator=rng)
            if tensor.dim() <= 1:
                tensor.copy_(float(name.endswith(NEAR_ONE)) + 0.05 * drawn)
            else:
                wide = any(part in name for part in ("modulation", "scale_shift", "pos_embed"))
                tensor.copy_(drawn * (0.3 if wide else 1 / math.sqrt(tensor[0].numel())))


def samples(recipe: Recipe) -> list[TrainSample]:
    """Two pictures with captions of the recipe's two lengths."""
    rng = torch.Generator().manual_seed(3)
    return [
        TrainSample(
            latent=torch.randn(*recipe.latent, generator=rng),
            conditioning=recipe.conditioning(length),
            caption=f"a caption of {length} tokens",
            name=f"{number}.png",
            size=(64, 64),
        )
        for number, length in enumerate(recipe.lengths)
    ]
