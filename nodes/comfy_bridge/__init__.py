"""The only folder that touches comfy.*: hands adapters over to a host's models, and pictures to its encoders."""

from .applying import FIXED, PLAN, Applied, Moves, apply_to_clip, apply_to_model
from .encoding import encoders_of, progress
from .host_patch import HostPatch
from .model_names import ModelNames, forget_names, model_names
from .model_weights import parameter_of
from .previewing import PreviewOrder, is_cancelled, keeping_the_wish, raise_if_cancelled, sample, step_bar
from .text_training import HostTextEncoder, text_encoder_of
from .training import HostDenoiser
from .work_progress import HostProgress
from .woven_models import WEAVE, forget_weaves, let_go_on_unload

__all__ = [
    "FIXED",
    "PLAN",
    "WEAVE",
    "Applied",
    "HostDenoiser",
    "HostPatch",
    "HostProgress",
    "HostTextEncoder",
    "ModelNames",
    "Moves",
    "PreviewOrder",
    "apply_to_clip",
    "apply_to_model",
    "encoders_of",
    "forget_names",
    "forget_weaves",
    "is_cancelled",
    "keeping_the_wish",
    "let_go_on_unload",
    "model_names",
    "parameter_of",
    "progress",
    "raise_if_cancelled",
    "sample",
    "step_bar",
    "text_encoder_of",
]
