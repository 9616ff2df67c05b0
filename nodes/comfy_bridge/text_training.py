"""A host's CLIP as training sees it: captions go through it with gradients, and it is put back as it was found."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.clip_model import CLIPLayer, CLIPTextModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.sd1_clip import SDClipModel
from torch import nn

from ...lora_core.errors import BadTraining
from ...lora_core.training.recomputing import Recomputed
from .encoding import clip_settings
from .frozen_weights import StandIns, stand_ins
from .other_forwards import OnCopy, other_forwards
from .weights_digest import fingerprint_of

ADVICE = "disconnect clip to train the model alone"


class HostTextEncoder:
    """See lora_core.training.text_encoder.TextEncoder."""

    def __init__(self, clip: CLIP, denoiser: ModelPatcher) -> None:
        """Raises BadTraining for text encoders of a kind that can't be trained.

        denoiser: the model that reads what the CLIP says; both are on their devices while they are trained.
        """
        check_trainable(clip)
        self._clip = clip
        self._denoiser = denoiser
        self._model: Any = clip.cond_stage_model
        self._weights = StandIns([])
        self.fingerprint = fingerprint_of(clip.patcher, clip_settings(clip))

    def modules(self) -> dict[str, nn.Module]:
        """See TextEncoder.modules."""
        return dict(self._model.named_modules())

    @contextmanager
    def frozen(self) -> Generator[None]:
        """See TextEncoder.frozen.

        The host's layers add to their input in place (comfy/clip_model.py), which a norm keeps for its backward pass;
        meanwhile it keeps a copy. They cast every weight to float32, which a linear layer would keep for each caption:
        4 bytes per weight. So layers are always computed again; next to a step of the denoiser that costs little.
        """
        self._load()
        norms = [module for module in self._model.modules() if isinstance(module, nn.LayerNorm)]
        layers = [module for module in self._model.modules() if isinstance(module, CLIPLayer)]
        with ExitStack() as held:
            held.callback(self._model.reset_clip_options)
            self._weights = held.enter_context(stand_ins(self._model))
            held.enter_context(other_forwards(norms, OnCopy))
            held.enter_context(other_forwards(layers, lambda forward: Recomputed(OnCopy(forward))))
            yield

    def settle(self) -> None:
        """Call it inside of `frozen` when others have used the models, which the host may have moved away for them."""
        with torch.inference_mode(False):
            self._load()
            self._weights.settle()

    def _load(self) -> None:
        both = [self._clip.patcher, self._denoiser]  # at once, so that neither makes room for the other
        comfy.model_management.load_models_gpu(both, force_full_load=True)

    def encode(self, captions: Sequence[str]) -> list[Any]:
        """See TextEncoder.encode; as the host's CLIP.encode_from_tokens_scheduled, which would load models anew."""
        options = {"layer": self._clip.layer_idx} if self._clip.layer_idx is not None else {}
        self._model.reset_clip_options()
        self._model.set_clip_options(options | {"execution_device": self._clip.patcher.load_device})
        said = {caption: self._said(caption) for caption in dict.fromkeys(captions)}
        return [said[caption] for caption in captions]

    def _said(self, caption: str) -> Any:
        text, pooled, *extra = self._model.encode_token_weights(self._clip.tokenize(caption))
        return [[text, {"pooled_output": pooled, **(extra[0] if extra else {})}]]

    def check_fits(self, conditioning: Any) -> None:
        """Raises BadTraining where this CLIP says another kind of thing than a conditioning of the dataset is."""
        ours, theirs = _widths(self.untrained("")), _widths(conditioning)
        if ours != theirs:
            what = f"clip gives {ours} numbers for a token (and pooled), but the captions of the dataset have {theirs}"
            raise BadTraining([f"{what}; connect the CLIP that made the dataset, or {ADVICE}"])

    def untrained(self, caption: str) -> Any:
        """The conditioning of a caption outside of `frozen`, without a gradient: as the host encodes it."""
        with torch.no_grad():
            return self._clip.encode_from_tokens_scheduled(self._clip.tokenize(caption))


def _widths(conditioning: Any) -> tuple[int | None, ...]:
    text, options = conditioning[0]
    return tuple(None if one is None else int(one.shape[-1]) for one in (text, options.get("pooled_output")))


def untrained_encoders(clip: CLIP | None) -> list[str]:
    """Every text encoder that gradients do not go through, or nobody tried: all but CLIP's."""
    if clip is None:
        return []
    encoders = {name: one for name, one in clip.cond_stage_model.named_modules() if isinstance(one, SDClipModel)}
    if not encoders:
        return [type(clip.cond_stage_model).__name__]
    return [
        f"{name} ({type(one.transformer).__name__})"
        for name, one in encoders.items()
        if not isinstance(one.transformer, CLIPTextModel)
    ]


def text_encoder_of(clip: CLIP | None, denoiser: ModelPatcher) -> tuple[HostTextEncoder | None, list[str]]:
    """The text encoders to train with a model, and why they are left as they are, if so. Raises BadTraining."""
    if untrained := untrained_encoders(clip):
        names = ", ".join(untrained)
        return None, [f"the text encoders are left as they are: of these, CLIP alone is trained, not {names}"]
    return (None if clip is None else HostTextEncoder(clip, denoiser)), []


def check_trainable(clip: CLIP) -> None:
    """Raises BadTraining naming what can't be trained of a CLIP."""
    if others := untrained_encoders(clip):
        raise BadTraining([f"of text encoders, CLIP alone can be trained, not {', '.join(others)}; {ADVICE}"])
    if clip.use_clip_schedule:
        raise BadTraining([f"a CLIP whose changes follow a schedule can't be trained; {ADVICE}"])
