"""Reads the weights of a host model as they were loaded, and changes nothing."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor


def parameter_of(model: ModelPatcher, clip: CLIP | None) -> Callable[[str], Tensor]:
    """What reads a parameter of a model, or of the CLIP beside it, by its name: float32, on the CPU.

    LoRAs that the model carries are not in it: the host gives what it keeps of a weight that it has patched. Quantised
    weights come as the numbers that they stand for. Raises KeyError for a name that neither has.
    """
    kept: dict[str, Any] = {}
    for patcher in (model, None if clip is None else clip.patcher):
        if patcher is not None:
            kept |= {name: patches[0] for name, patches in patcher.get_key_patches().items()}

    def read(name: str) -> Tensor:
        weight, convert = kept[name]
        if type(weight) not in (Tensor, torch.nn.Parameter):
            if not hasattr(weight, "dequantize"):  # a type of another node pack, such as GGUF's
                raise KeyError(name)
            return weight.dequantize().detach().float().cpu()
        plain: Tensor = convert(weight.detach().float(), inplace=False)
        return plain.cpu().clone()

    return read
