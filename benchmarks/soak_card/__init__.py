"""A ComfyUI node pack without nodes: makes a host on a CPU believe in a small card, so that it makes room for each."""

import os
from typing import Any

import comfy.model_management as management

CARD = int(os.environ.get("LORA_LOOM_CARD_BYTES", "0"))  # for weights, beside what the host keeps for activations
NODE_CLASS_MAPPINGS: dict[str, Any] = {}


def _free(dev: Any = None, torch_free_too: bool = False) -> Any:
    """Bytes that are free on the card as it is now."""
    loaded = sum(entry.model_loaded_memory() for entry in management.current_loaded_models if entry.model is not None)
    free = max(0, CARD + int(management.minimum_inference_memory()) - loaded)
    return (free, free) if torch_free_too else free


if CARD:
    management.get_free_memory = _free
    management.vram_state = management.VRAMState.NORMAL_VRAM
