"""The only folder that touches comfy.*: reads a host model's layers, and hands adapters over to its patcher."""

from .applying import PLAN, Applied, apply_to_clip, apply_to_model
from .host_patch import HostPatch
from .model_names import ModelNames, forget_names, model_names
from .model_weights import parameter_of
from .progress import HostProgress
from .woven_models import ON_UNLOAD, WEAVE, forget_weaves

__all__ = [
    "ON_UNLOAD",
    "PLAN",
    "WEAVE",
    "Applied",
    "HostPatch",
    "HostProgress",
    "ModelNames",
    "apply_to_clip",
    "apply_to_model",
    "forget_names",
    "forget_weaves",
    "model_names",
    "parameter_of",
]
