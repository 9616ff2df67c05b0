"""The adapter file of a training: its keys in a trainer's dialect, and the metadata that other tools read."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotConvertible
from ..file_work.writing.row_pieces import Piece
from ..file_work.writing.spelled_layers import spell
from ..files.adapter_content import AdapterContent
from ..files.lora_in_memory import LoraInMemory, lora_in_memory
from ..names import families
from ..names.key_dialects.spelling import SPELLINGS
from ..names.target_layer import UNET, ModelLayout
from .dataset import TrainSample
from .settings import ALGORITHMS, TrainSettings

DIALECT = "kohya"  # which every program reads
WORD = re.compile(r"[^,\n]+")
# Names of Stability-AI/ModelSpec and of sd-scripts' ss_base_model_version, by our family name.
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "SD1.5": ("stable-diffusion-v1/lora", "sd_v1"),
    "SD2": ("stable-diffusion-v2-768-v/lora", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0"),
    "SD3": ("stable-diffusion-3/lora", "sd3"),
    "Flux.1": ("flux-1-dev/lora", "flux1"),
}


@dataclass(frozen=True, slots=True, eq=False)
class TrainedLayer:
    """The factors of one layer, as trained."""

    path: str
    down: Tensor  # [rank, in, *kernel], float32
    up: Tensor  # [out, rank, *ones], float32


def trained_file(
    name: str,
    layers: Sequence[TrainedLayer],
    layout: ModelLayout,
    settings: TrainSettings,
    samples: Sequence[TrainSample],
    step: int,
) -> LoraInMemory:
    """The adapter, in memory. The same training gives the same bytes, so no time of day is in it.

    Raises NotConvertible if the dialect has no words for a layer.
    """
    pieces = {layer.path: [_piece(layer, settings)] for layer in layers}
    with_text = any(layout.targets[layer.path].part != UNET for layer in layers)
    spelled = spell(pieces, SPELLINGS[DIALECT], layout)
    if spelled.refused:
        raise NotConvertible(name, list(spelled.refused))
    metadata = _metadata(name, layout.family, settings, samples, step)
    if with_text:
        metadata["ss_text_encoder_lr"] = f"{settings.rate * settings.text_encoder_lr:g}"
    return lora_in_memory(name, AdapterContent(tensors=spelled.tensors, metadata=metadata))


def _piece(layer: TrainedLayer, settings: TrainSettings) -> Piece:
    """A layer too small for the rank has the scale that was asked for all the same."""
    scale = settings.alpha_of / settings.rank
    out, rank = layer.up.shape[:2]
    alpha = torch.tensor(scale * rank, dtype=torch.float32)
    return Piece((0, out), {"down": layer.down.cpu(), "up": layer.up.cpu()}, alpha)


def _metadata(
    name: str, family: families.Family, settings: TrainSettings, samples: Sequence[TrainSample], step: int
) -> dict[str, str]:
    learned = [sample for sample in samples if not sample.keep]
    architecture, version = ARCHITECTURES.get(family.name, (f"{family.name.lower()}/lora", family.name.lower()))
    words = Counter(word.strip() for sample in learned for word in WORD.findall(sample.caption) if word.strip())
    convolutions = ALGORITHMS[settings.algorithm]
    arguments = {"algo": "lora", "conv_dim": settings.rank, "conv_alpha": settings.alpha_of} if convolutions else {}
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "ss_output_name": name,
        "ss_base_model_version": version,
        "ss_network_module": "lycoris.kohya" if convolutions else "networks.lora",
        "ss_network_dim": str(settings.rank),
        "ss_network_alpha": f"{settings.alpha_of:g}",
        "ss_network_args": json.dumps(arguments),
        "ss_learning_rate": f"{settings.rate:g}",
        "ss_unet_lr": f"{settings.rate:g}",
        "ss_lr_scheduler": settings.schedule,
        "ss_optimizer": settings.optimiser,
        "ss_max_train_steps": str(settings.steps),
        "ss_steps": str(step),
        "ss_seed": str(settings.seed),
        "ss_num_train_images": str(sum(sample.repeats for sample in learned)),
        "ss_batch_size_per_device": str(settings.batch),
        "ss_tag_frequency": json.dumps({"training": dict(words.most_common())}),
    }
