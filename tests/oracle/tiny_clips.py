"""Pairs of tiny CLIP text encoders with equal weights: of transformers, and inside a CLIP of the host."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.sd
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from comfy.supported_models_base import ClipTarget
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .tiny_unets import SEED, randomise_

PROMPT = "a loom weaves three threads of wool into one"
WRAPPER = "text_model."  # a level that transformers dropped from CLIPTextModel in 5.6; the host has it
NOT_IN_REFERENCE = {"clip_l": {"text_projection.weight", "logit_scale"}, "clip_g": {"logit_scale"}}

COMMON: Mapping[str, int] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
CONFIGS: Mapping[str, Mapping[str, int | str]] = {
    "clip_l": {**COMMON, "hidden_size": 32, "intermediate_size": 64, "hidden_act": "quick_gelu"},
    "clip_g": {**COMMON, "hidden_size": 48, "intermediate_size": 96, "hidden_act": "gelu", "projection_dim": 48},
}
PARTS: Mapping[str, Mapping[str, str]] = {  # family -> the pipeline's name of an encoder -> the host's
    "SD1.5": {"text_encoder": "clip_l"},
    "SDXL": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
}

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection
Encoded = tuple[Tensor, Tensor]  # what conditions the UNet: [1, 77, width], [1, pooled width]


@dataclass(frozen=True, kw_only=True, eq=False)
class TwinClip:
    """The reference text encoders of one family, and a host's CLIP with the same weights."""

    family: str
    references: Mapping[str, TextEncoder]  # by the pipeline's names
    clip: comfy.sd.CLIP

    @cached_property
    def base(self) -> Encoded:
        """The host's output when it was first asked for, before any adapter."""
        return self.host_output(self.clip)

    def host_output(self, clip: comfy.sd.CLIP) -> Encoded:
        """What this CLIP, or one with adapters, makes of the prompt."""
        return clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)

    def reference_output(self) -> Encoded:
        """The same by the references, with whatever is injected into them, put together as their pipelines do."""
        tokens = {f"clip_{name}": ids for name, ids in self.clip.tokenize(PROMPT).items()}
        found: dict[str, Encoded] = {}
        for name, model in self.references.items():
            ids = torch.tensor([[token for token, _ in tokens[PARTS[self.family][name]][0]]])
            with torch.no_grad():
                out = model(ids, output_hidden_states=True)
            if self.family == "SD1.5":
                return out.last_hidden_state, out.pooler_output
            found[name] = out.hidden_states[-2], out[0]  # SDXL reads the layer before the last
        return torch.cat([hidden for hidden, _ in found.values()], dim=-1), found["text_encoder_2"][1]


def twin_clip(family: str) -> TwinClip:
    """Make the text encoders of a family twice, and carry every parameter from the references to the host's."""
    references = {name: _reference(part, seed) for seed, (name, part) in enumerate(PARTS[family].items())}
    clip = _host_clip(family)
    for name, part in PARTS[family].items():
        weights = {_host_name(key): tensor for key, tensor in references[name].state_dict().items()}
        transformer = getattr(clip.cond_stage_model, part).transformer
        missing, unexpected = transformer.load_state_dict(weights, strict=False)
        missing = [key for key in missing if key not in NOT_IN_REFERENCE[part]]
        if missing or unexpected:
            raise ValueError(f"the twins of {part} differ: missing {missing}, unexpected {unexpected}")
    return TwinClip(family=family, references=references, clip=clip)


def in_float64(twin: TwinClip) -> TwinClip:
    """Twins with the same numbers which compute in float64; the host's rounds what it says to float32, as ever."""
    references = {name: copy.deepcopy(model).double() for name, model in twin.references.items()}
    clip = copy.deepcopy(twin.clip)
    model = clip.cond_stage_model.double()
    for part in PARTS[twin.family].values():
        transformer = getattr(model, part).transformer
        transformer.forward = _InFloat64(transformer.forward)
    return TwinClip(family=twin.family, references=references, clip=clip)


class _InFloat64:
    """A text encoder's forward on float64 embeddings, whatever the host asks for."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self._forward(*inputs, **{**options, "embeds": options["embeds"].double(), "dtype": torch.float64})


def _reference(part: str, seed: int) -> TextEncoder:
    cls = CLIPTextModelWithProjection if part == "clip_g" else CLIPTextModel
    model = cls(CLIPTextConfig(**CONFIGS[part])).eval().requires_grad_(False)
    randomise_(model, torch.Generator().manual_seed(SEED + seed))
    return model


def _host_clip(family: str) -> comfy.sd.CLIP:
    target = {
        "SD1.5": ClipTarget(SD1Tokenizer, SD1ClipModel),
        "SDXL": ClipTarget(SDXLTokenizer, SDXLClipModel),
    }[family]
    options = {f"{part}_model_config": dict(CONFIGS[part]) for part in PARTS[family].values()}
    cpu = torch.device("cpu")
    return comfy.sd.CLIP(
        target, model_options={"dtype": torch.float32, "load_device": cpu, "offload_device": cpu, **options}
    )


def _host_name(key: str) -> str:
    return key if key.startswith((WRAPPER, "text_projection")) else WRAPPER + key
