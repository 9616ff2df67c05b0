"""Names the files that look like adapters and are something else, before a layer of them is applied wrongly."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..adapters.scale_rules import ADAPTER_METADATA, json_object
from ..errors import NotAnAdapter
from ..files.lora_file import LoraFile


@dataclass(frozen=True, slots=True)
class Foreign:
    """A key that only one other kind of file has."""

    pattern: re.Pattern[str]
    reason: str
    advice: str


FOREIGN = (
    Foreign(
        re.compile(r"^lora_controlnet$"),
        "this is a Control-LoRA, which carries a ControlNet",
        "Load it with a ControlNet loader.",
    ),
    Foreign(
        re.compile(r"(?:^|[._])motion_modules[._]"),
        "this is an AnimateDiff motion LoRA, made for a motion module",
        "Load it with an AnimateDiff node.",
    ),
    Foreign(
        re.compile(r"\.(?:lambda_layer|q_layer|p_layer)(?:\.|$)"),
        "this is a T-LoRA, whose change depends on the timestep and can't be one delta",
        "Ask its author for an ordinary LoRA of it.",
    ),
    Foreign(
        re.compile(r"\.(?:lora_ups|lora_downs|lora_experts)\.\d+\.|\.(?:router|lora_router|lora_gate)\.weight$"),
        "this is a mixture of LoRAs (HydraLoRA and its like), whose router chooses among several changes at each step",
        "Ask its author for one of its experts as an ordinary LoRA.",
    ),
    Foreign(
        re.compile(
            r"\.(?:qkv_proj|out_proj|mlp_fc[12]|qkv_proj_context|mlp_context_fc[12])\.(?:lora_down|lora_up|smooth)$"
        ),
        "its factors are packed for Nunchaku's 4 bit kernels",
        "Use the LoRA that it was packed from.",
    ),
    Foreign(
        re.compile(r"\.(?:processor|attn)\.(?:q|k|v|proj)_loras\.\d+\."),
        "this is an EasyControl condition, whose factors act on the tokens of a second picture alone",
        "Load it with an EasyControl node.",
    ),
)

# Ways to start a training that also change the base weights, so that the file alone is no delta of the original model.
# Source: peft 0.21.2, LoraConfig.init_lora_weights; files that PEFT converted on saving say `true` instead.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def refuse_foreign(file: LoraFile) -> None:
    """Raise NotAnAdapter for a file that is no adapter of a denoiser or text encoder as it was released."""
    for key in file.header.entries:
        for foreign in FOREIGN:
            if foreign.pattern.search(key):
                raise NotAnAdapter(file.name, f"{foreign.reason} (key '{key[:80]}')", foreign.advice)
    for config in _configs(file):
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
            raise NotAnAdapter(
                file.name,
                f"its training started with '{start[:40]}', which changed the weights of the base model too",
                "Save it again with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
            )


def _configs(file: LoraFile) -> Iterable[Mapping[str, Any]]:
    """Every LoraConfig that comes with the file; those of one part have their part's name before each field."""
    if file.peft_config is not None:
        yield file.peft_config
    for name, value in json_object(file.header.metadata.get(ADAPTER_METADATA, "{}")).items():
        yield {name.rpartition(".")[2]: value}
