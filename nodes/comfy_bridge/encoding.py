"""Hands pictures and captions to a host's VAE and CLIP, and tells these from others by their weights."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...lora_core.errors import BadSetting
from ...lora_core.files.stored_values import plain_copy
from ...lora_core.training.dataset import Encoders
from .weights_digest import is_changed, weights_digest

EMBEDDING = "embedding:"  # in a caption it stands for a file, which may change
CHANGED = "{what} is changed by other nodes, so {made} are encoded anew in every run"
UNKNOWN = "{what} can't be told from others by its weights, so {made} are encoded anew in every run"


def encoders_of(vae: Any, clip: Any) -> Encoders:
    """A host's VAE and CLIP as training sets use them; all tensors they give are ordinary ones on the CPU.

    Raises BadSetting where one of them is missing, as in checkpoints without a text encoder.
    """
    missing = [name for name, given in (("vae", vae), ("clip", clip)) if given is None]
    if missing:
        raise BadSetting(f"nothing came in at {' and '.join(missing)}; the checkpoint may have none: load them apart")
    vae_id, vae_note = _identified(vae, "first_stage_model", "the VAE", "pictures", _vae_settings(vae))
    clip_id, clip_note = _identified(clip, "cond_stage_model", "the CLIP", "captions", clip_settings(clip))

    def encode_picture(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return plain_copy(vae.encode(pixels))

    def encode_text(caption: str) -> Any:
        with torch.no_grad():
            return plain_copy(clip.encode_from_tokens_scheduled(clip.tokenize(caption)))

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            pictures = plain_copy(vae.decode(latents))
        return pictures.flatten(0, 1) if pictures.ndim == 5 else pictures  # a video VAE gives [n, frames, h, w, 3]

    return Encoders(
        encode_picture=encode_picture,
        encode_text=encode_text,
        decode=decode,
        factor=int(vae.spacial_compression_encode()),
        picture_fingerprint=vae_id,
        text_fingerprint=lambda caption: None if EMBEDDING in caption else clip_id,
        notes=tuple(note for note in (vae_note, clip_note) if note),
    )


def progress(total: int) -> Callable[[int, int], None]:
    """Shows how much is done, and ends the run when the person asks for it."""
    bar = comfy.utils.ProgressBar(total)

    def on_picture(done: int, _of: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    return on_picture


def _vae_settings(vae: Any) -> str:
    names = ("vae_dtype", "downscale_ratio", "latent_channels", "latent_dim")
    values = {name: getattr(vae, name, None) for name in names}
    return f"{type(vae).__qualname__} { {name: value for name, value in values.items() if not _has_code(value)} }"


def clip_settings(clip: Any) -> str:
    """What of a CLIP, beside its weights, decides how captions are read."""
    options = sorted(getattr(clip, "tokenizer_options", {}).items())
    tokenizer = type(getattr(clip, "tokenizer", None)).__qualname__
    return f"{tokenizer} {getattr(clip, 'layer_idx', None)} {options}"


def _has_code(value: Any) -> bool:
    """Whether a value holds a function, whose text has an address in it."""
    return callable(value) or (isinstance(value, tuple | list) and any(map(_has_code, value)))


def _identified(encoder: Any, module_name: str, what: str, made: str, settings: str) -> tuple[str | None, str]:
    """A fingerprint, or None with a note why there is none."""
    module, patcher = getattr(encoder, module_name, None), getattr(encoder, "patcher", None)
    if module is None or patcher is None:
        return None, UNKNOWN.format(what=what, made=made)
    if is_changed(patcher) or getattr(encoder, "use_clip_schedule", False):
        return None, CHANGED.format(what=what, made=made)
    digest = weights_digest(module, patcher, f"{type(module).__qualname__} {settings}")
    return digest, "" if digest else UNKNOWN.format(what=what, made=made)
