"""Host models without weights, made from recorded base lists, and adapters without values from recorded key lists."""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._models import KEY_LISTS


def read_list(name: str) -> dict[str, Any]:
    """A recorded list: key -> [dtype, shape], where the source gave them."""
    return json.loads(gzip.decompress((KEY_LISTS / f"{name}.json.gz").read_bytes()))


NORMS = re.compile(r"((?:query|key)_norm)\.weight$")


@dataclass(frozen=True)
class WithoutWeights:
    """Stands for a CLIP's model where only its names are asked for."""

    shapes: Mapping[str, Sequence[int]]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Name -> tensor on the meta device."""
        return {name: torch.empty(tuple(shape), device="meta") for name, shape in self.shapes.items()}


def host_model(base: str) -> Any:
    """The host's own model of a recorded denoiser, on the meta device. Fails where this host does not know it."""
    import comfy.model_detection

    shapes = {name: shape for name, (_, shape) in read_list(f"base_{base}").items()}
    listed = WithoutWeights(shapes).state_dict()
    config = comfy.model_detection.model_config_from_unet(dict(listed), "diffusion_model.")
    if config is None:  # hosts before 0.29 know Flux by the older name of its norms
        listed = WithoutWeights({NORMS.sub(r"\1.scale", name): shape for name, shape in shapes.items()}).state_dict()
        config = comfy.model_detection.model_config_from_unet(dict(listed), "diffusion_model.")
    if config is None:
        raise LookupError(f"this host does not recognise {base}")
    config.set_inference_dtype(torch.float16, None)
    return config.get_model(dict(listed), "diffusion_model.", device=torch.device("meta"))


def host_clip(base: str) -> WithoutWeights:
    """A recorded text encoder, for which the host's key map needs its names alone."""
    return WithoutWeights({name: shape for name, (_, shape) in read_list(f"base_{base}").items()})


def adapter_tensors(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a recorded adapter on the meta device; alphas are real numbers, which loaders read.

    Shapes that the source did not give are made up, with as many sides as the host's loader looks at.
    """
    tensors: dict[str, torch.Tensor] = {}
    for key, (_, shape) in read_list(name).items():
        if key.endswith(".alpha"):
            tensors[key] = torch.tensor(1.0)
        elif shape is None:
            tensors[key] = torch.empty((1, 1, 1) if "oft" in key else (1, 1), device="meta")
        else:
            tensors[key] = torch.empty(tuple(shape), device="meta")
    return tensors


def host_key_map(model: Any, clip: WithoutWeights | None) -> dict[str, Any]:
    """The host's own names for the layers of a model and a CLIP."""
    import comfy.lora

    key_map = comfy.lora.model_lora_keys_unet(model, {})
    return key_map if clip is None else comfy.lora.model_lora_keys_clip(clip, key_map)
