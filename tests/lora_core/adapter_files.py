"""Makes adapter files, key lists and model layouts for tests."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lora_pack.lora_core import LoadedLora, ModelLayout, NameTable, list_targets, load_lora, open_lora
from safetensors.torch import save_file
from torch import Tensor

KEY_LISTS = Path(__file__).parents[1] / "key_lists"


def read_list(name: str) -> dict[str, Any]:
    """A recorded list: key -> [dtype, shape]."""
    return json.loads(gzip.decompress((KEY_LISTS / f"{name}.json.gz").read_bytes()))


def model_layout(*names: str) -> ModelLayout:
    """The layers of recorded base models, such as "sd15_unet_comfy"."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        shapes |= {key: tuple(shape) for key, (_, shape) in read_list(f"base_{name}").items()}
    return list_targets(shapes)


def write_list(name: str, path: Path) -> Path:
    """An adapter file with the keys and shapes of a recorded list; every value is small and finite."""
    tensors = {key: torch.full(shape, 0.01, dtype=torch.float16) for key, (_, shape) in read_list(name).items()}
    save_file(tensors, path)
    return path


def write_adapter(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """An adapter file with these tensors."""
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        path,
        metadata=dict(metadata) if metadata else None,
    )
    return path


def write_header(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with any header, JSON or bytes, and any data behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def load(path: Path, layout: ModelLayout) -> LoadedLora:
    """The file made ready for a model."""
    return load_lora(open_lora(path), layout, NameTable(layout))


TINY_SHAPES: Mapping[str, tuple[int, ...]] = {  # a UNet of two layers, and two text encoders of one
    "diffusion_model.input_blocks.1.1.proj_in.weight": (6, 4, 1, 1),
    "diffusion_model.input_blocks.1.1.proj_in.bias": (6,),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (6, 768),
    "diffusion_model.input_blocks.1.0.in_layers.2.weight": (6, 4, 3, 3),
    "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (8, 4),
}


def tiny_layout() -> ModelLayout:
    """A model small enough to write adapters for by hand."""
    return list_targets(TINY_SHAPES)


def pair(layer: str, out: int, inputs: int, rank: int = 2, alpha: float | None = None) -> dict[str, Tensor]:
    """kohya's tensors for one Linear layer, random from a fixed seed."""
    generator = torch.Generator().manual_seed(len(layer))
    tensors = {
        f"{layer}.lora_down.weight": torch.randn(rank, inputs, generator=generator),
        f"{layer}.lora_up.weight": torch.randn(out, rank, generator=generator),
    }
    return tensors if alpha is None else tensors | {f"{layer}.alpha": torch.tensor(alpha)}
