"""The demo's text encoder: the host's CLIP text model, two layers of it, with an embedding for 48 words."""

from typing import Any

import comfy.sd
import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.supported_models_base import ClipTarget

from .words import SLOTS, SPECIAL_TOKENS, TOKENS, DemoTokenizer

WIDTH = 64  # channels, of the captions' encoding too
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": TOKENS,
    "eos_token_id": SPECIAL_TOKENS["end"],
}


class FewWordsTextModel(CLIPTextModel):
    """The host's class always builds 49408 rows of embedding."""

    def __init__(self, config: dict[str, Any], dtype: torch.dtype | None, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        few_rows = operations.Embedding(SLOTS, WIDTH, dtype=dtype, device=device)
        self.text_model.embeddings.token_embedding = few_rows


class DemoClipLayer(SDClipModel):
    def __init__(self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: Any = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=TOKENS,
            textmodel_json_config=dict(CONFIG),
            model_class=FewWordsTextModel,
            special_tokens=SPECIAL_TOKENS,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class DemoClipModel(SD1ClipModel):
    # Newer hosts read this: a text encoder of 0.2 MB is better kept whole than streamed in parts.
    disable_offload = True

    def __init__(self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: Any = None) -> None:
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=DemoClipLayer)


def new_clip() -> comfy.sd.CLIP:
    """Its weights are whatever the memory held: load a state dict into it."""
    target = ClipTarget(DemoTokenizer, DemoClipModel)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32, "initial_device": torch.device("cpu")})
