"""A model of a few layers, adapter files for it, and the dense truth that merges are held against."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lora_pack.lora_core import ModelLayout, NameTable, list_targets, load_lora, open_lora
from lora_pack.lora_core.file_work.merging.merge_files import MergeOrder, merge_files
from lora_pack.lora_core.file_work.sources import Source
from lora_pack.lora_core.file_work.writing.new_adapter import NewAdapter
from torch import Tensor

from ..adapter_files import write_adapter

WIDTH = 12
QKV, PROJ = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.proj"
CONV = "double_blocks.1.conv"
NORM = "double_blocks.0.img_attn.norm"
TEXT = "text_model.encoder.layers.0.mlp.fc1"
SHAPES = {
    f"diffusion_model.{QKV}.weight": (3 * WIDTH, WIDTH),
    f"diffusion_model.{QKV}.bias": (3 * WIDTH,),
    f"diffusion_model.{PROJ}.weight": (WIDTH, WIDTH),
    f"diffusion_model.{PROJ}.bias": (WIDTH,),
    f"diffusion_model.{NORM}.weight": (WIDTH,),
    f"diffusion_model.{CONV}.weight": (WIDTH, 10, 3, 3),
    f"clip_l.transformer.{TEXT}.weight": (16, WIDTH),
}
BLOCK = "transformer.transformer_blocks.0.attn"


def layout() -> ModelLayout:
    return list_targets(SHAPES)


def kohya(path: str, part: str = "unet") -> str:
    """What kohya calls a layer."""
    return f"lora_{'unet' if part == 'unet' else 'te1'}_{path.replace('.', '_')}"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(layer: str, shape: Sequence[int], rank: int, seed: int, alpha: float | None = None) -> dict[str, Tensor]:
    """kohya's tensors for a layer of a weight shape."""
    tensors = {
        f"{layer}.lora_down.weight": normal(rank, *shape[1:], seed=seed),
        f"{layer}.lora_up.weight": normal(shape[0], rank, *[1] * (len(shape) - 2), seed=seed + 1000),
    }
    return tensors if alpha is None else tensors | {f"{layer}.alpha": torch.tensor(alpha)}


def lora_file(path: Path, seed: int, rank: int = 3, alpha: float | None = None) -> Path:
    """A kohya file with a LoRA on every matrix."""
    tensors: dict[str, Tensor] = {}
    for number, (layer, shape) in enumerate(
        {
            kohya(QKV): (3 * WIDTH, WIDTH),
            kohya(PROJ): (WIDTH, WIDTH),
            kohya(CONV): (WIDTH, 10, 3, 3),
            kohya(TEXT, "te"): (16, WIDTH),
        }.items()
    ):
        tensors |= pair(layer, shape, rank, seed + number, alpha)
    return write_adapter(path, tensors)


def split_file(path: Path, seed: int, ranks: Mapping[str, int]) -> Path:
    """A diffusers file with q, k, v as layers of their own."""
    tensors: dict[str, Tensor] = {}
    for number, (name, rank) in enumerate(ranks.items()):
        tensors[f"{BLOCK}.{name}.lora_A.weight"] = normal(rank, WIDTH, seed=seed + number)
        tensors[f"{BLOCK}.{name}.lora_B.weight"] = normal(WIDTH, rank, seed=seed + number + 1000)
    return write_adapter(path, tensors)


def deltas(path: Path, model: ModelLayout | None = None) -> dict[str, Tensor]:
    """What each parameter of the model gains at strength 1: the dense truth, by the loader and its adapters."""
    model = model or layout()
    lora = load_lora(open_lora(path), model, NameTable(model))
    lora.report.require_any().require_complete()
    found: dict[str, Tensor] = {}
    for placed in lora.adapters:
        target = model.targets[placed.place.path]
        whole = found.setdefault(
            placed.target, torch.zeros(target.shape[:1] if placed.parameter == "bias" else target.shape).double()
        )
        start, stop = placed.place.rows or (0, whole.shape[0])
        whole[start:stop] += placed.adapter.delta_of(torch.zeros(whole[start:stop].shape)).double()
    return found


def weighted_sum(files: Mapping[Path, float]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for path, strength in files.items():
        for name, delta in deltas(path).items():
            total[name] = total.get(name, torch.zeros_like(delta)) + strength * delta
    return total


def merge(files: Mapping[Path, float], method: str = "concat", **order: object) -> NewAdapter:
    sources = [Source(open_lora(path), strength) for path, strength in files.items()]
    return merge_files(sources, MergeOrder(method=method, **order), layout())


def written(made: NewAdapter, path: Path) -> dict[str, Tensor]:
    """What a made file changes once it is written and read again."""
    made.write(path)
    return deltas(path)


def assert_near(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    """Equal to a share of each parameter's largest number; what is not there is 0."""
    for name in found.keys() | wanted.keys():
        one, other = found.get(name), wanted.get(name)
        one = torch.zeros_like(other) if one is None else one
        other = torch.zeros_like(one) if other is None else other
        assert (one - other).abs().max() <= tolerance * max(float(other.abs().max()), 1e-3), name
