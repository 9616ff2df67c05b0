"""Whole models for the merge benchmark: shapes of their layers, files of random factors, and the peers' formulas."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

KEY_LISTS = Path(__file__).parents[1] / "tests" / "key_lists"
# Key list, and what the names of the layers hold that trainers adapt: linear layers of the blocks.
MODELS = {"SDXL": ("base_sdxl_unet_comfy", ("transformer_blocks",)), "Flux": ("base_flux1_dev_comfy", ("_blocks.",))}
CLAMP = 0.99  # quantile, in sd-scripts' svd_merge_lora.py

Shape = tuple[int, int]


def layers(model: str) -> dict[str, Shape]:
    """Path -> [out, in] of the linear layers that a LoRA of a model has."""
    name, marks = MODELS[model]
    text = gzip.decompress((KEY_LISTS / f"{name}.json.gz").read_bytes())
    return {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, (_, shape) in json.loads(text).items()
        if key.endswith(".weight") and len(shape) == 2 and any(mark in key for mark in marks)
    }


def shapes(model: str) -> Counter[Shape]:
    """[out, in] -> layers of it."""
    return Counter(layers(model).values())


def random_pairs(shape: Shape, rank: int, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """(up, down) of some adapters, float32, with singular values that fall as those of trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    falling = torch.arange(1, rank + 1).float().pow(-0.7)
    out, inputs = shape
    return [
        (
            torch.randn(out, rank, generator=generator) * falling / out**0.5,
            torch.randn(rank, inputs, generator=generator) / inputs**0.5,
        )
        for _ in range(count)
    ]


def write_file(path: Path, model: str, rank: int, seed: int) -> Path:
    """A kohya file, fp16, alpha = rank."""
    tensors: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(layers(model).items()):
        key = "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")
        ((up, down),) = random_pairs(shape, rank, 1, seed + 2 * number)
        tensors |= {f"{key}.lora_up.weight": up.half(), f"{key}.lora_down.weight": down.half()}
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)
    return path


def summed(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The dense sum [out, in], in the factors' dtype."""
    total = pairs[0][0] @ pairs[0][1]
    for up, down in pairs[1:]:
        total += up @ down
    return total


def economy(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    """The sum's first singular triples by a dense decomposition that forms no more vectors than there are."""
    left, values, right = torch.linalg.svd(summed(pairs), full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def sd_scripts(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    """As sd-scripts merges by SVD: a dense decomposition with all vectors, then both factors clamped."""
    left, values, right = torch.linalg.svd(summed(pairs))
    up, down = left[:, :rank] @ torch.diag(values[:rank]), right[:rank]
    most = torch.quantile(torch.cat([up.flatten(), down.flatten()]), CLAMP)
    return up.clamp(-most, most), down.clamp(-most, most)
