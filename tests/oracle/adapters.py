"""Adapters as diffusers and PEFT make them: the recipes, the injection, and what an injected adapter consists of."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import recurse_remove_peft_layers, set_weights_and_activate_adapters
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
RESNETS = ["conv1", "conv2", "conv_shortcut", "time_emb_proj"]
TRANSFORMERS = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
SAMPLERS = ["downsamplers.0.conv", "upsamplers.0.conv"]
ENDS = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]

# Recipe -> what LoraConfig is made from, besides the Gaussian initialisation of A and the targets.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "alpha as rank": {"r": 4, "lora_alpha": 4},
    "own alpha": {"r": 4, "lora_alpha": 5},
    "rank-stabilised": {"r": 4, "lora_alpha": 2, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 3,
        "rank_pattern": {"attn2.to_k": 6, r"up_blocks\..*\.to_q": 3},
        "alpha_pattern": {"attn1.to_v": 7, r"down_blocks\..*\.to_out\.0": 2, "attn2.to_k": 1},
    },
    "rank-stabilised patterns": {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "rank_pattern": {"attn1.to_v": 9},
        "alpha_pattern": {"attn1.to_v": 5},
    },
    "some layers": {"r": 3, "lora_alpha": 2, "target_modules": ["to_k", "to_v", "proj_in", "ff.net.2", "conv1"]},
    "text patterns": {
        "r": 3,
        "lora_alpha": 2,
        "target_modules": [*TEXT_ATTENTION, "fc1", "fc2"],
        "rank_pattern": {"fc1": 5},
        "alpha_pattern": {"q_proj": 4, r".*layers\.1\.mlp\..*": 1},
    },
    "every layer": {"r": 3, "lora_alpha": 2, "target_modules": [*TRANSFORMERS, *RESNETS, *SAMPLERS, *ENDS]},
    "every layer, alpha as rank": {
        "r": 3,
        "lora_alpha": 3,
        "target_modules": [*TRANSFORMERS, *RESNETS, *SAMPLERS, *ENDS],
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PeftAdapter:
    """One adapter as PEFT holds it."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]  # "<module>.lora_A.weight" -> [rank, in, *kernel], and B
    scales: Mapping[str, float]  # module -> the scale that PEFT computes with

    @property
    def alphas(self) -> dict[str, float]:
        """The alpha per module of a trainer that divides it by the rank, as kohya's does, for the same scale."""
        return {module: scale * len(self.tensors[f"{module}.lora_A.weight"]) for module, scale in self.scales.items()}


# Of a trained B. The delta is then about as large as the weight at strength 2; far above, float32 rounding alone grows
# to more than 1e-5 in the reference itself (measured against float64).
UP_SPREAD = 0.5

Trained = Callable[[str, str], tuple[PeftAdapter, Tensor]]  # (family, recipe) -> adapter, reference's output


@contextmanager
def injected(model: Any, recipes: Mapping[str, str], *, trained: bool = True) -> Iterator[list[PeftAdapter]]:
    """Inject adapters (name -> recipe) while the block runs; untrained ones keep B = 0."""
    try:
        yield [
            _inject(model, name, recipe, seed, trained=trained) for seed, (name, recipe) in enumerate(recipes.items())
        ]
    finally:
        unload(model)


def _inject(model: Any, name: str, recipe: str, seed: int, *, trained: bool) -> PeftAdapter:
    targets = TEXT_ATTENTION if _is_text_encoder(model) else ATTENTION
    config = LoraConfig(**{"init_lora_weights": "gaussian", "target_modules": targets, **RECIPES[recipe]})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # a second adapter is meant
        torch.manual_seed(seed)
        model.add_adapter(config, adapter_name=name)
        if trained:
            _randomise_up_(model, name)
    return extract(model, name)


def _randomise_up_(model: Any, name: str) -> None:
    for layer in lora_layers(model, name).values():
        inputs = layer.lora_A[name].weight[0].numel()
        torch.nn.init.normal_(layer.lora_B[name].weight, std=UP_SPREAD / math.sqrt(inputs))


def extract(model: Any, name: str) -> PeftAdapter:
    """An injected adapter, with its tensors copied."""
    tensors = get_peft_model_state_dict(model, adapter_name=name)
    return PeftAdapter(
        config=model.peft_config[name],
        tensors={key: tensor.detach().clone() for key, tensor in tensors.items()},
        scales={module: layer.scaling[name] for module, layer in lora_layers(model, name).items()},
    )


def lora_layers(model: Any, name: str) -> dict[str, LoraLayer]:
    """PEFT's layers that hold this adapter, by the name of the module they stand for."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {path: layer for path, layer in layers.items() if name in layer.scaling}


def set_strengths(model: Any, strengths: Mapping[str, float]) -> None:
    """Make exactly these adapters active, each at its strength, as a diffusers pipeline does for all its parts."""
    if _is_text_encoder(model):
        set_weights_and_activate_adapters(model, list(strengths), list(strengths.values()))
    else:
        model.set_adapters(list(strengths), list(strengths.values()))


def unload(model: Any) -> None:
    """Take PEFT's layers out again, so that the model's names are its own."""
    recurse_remove_peft_layers(model)
    del model.peft_config
    model._hf_peft_config_loaded = False


def _is_text_encoder(model: Any) -> bool:
    """Text encoders come from transformers, whose models know no strengths."""
    return not hasattr(model, "set_adapters")
