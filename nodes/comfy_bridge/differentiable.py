"""The host's functions that have no gradient, and what stands in their place while a step is trained."""

import importlib
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management

KERNELS = "comfy_kitchen"  # the host's library of kernels: registered without a formula for the gradient
PLAIN_KERNELS = "comfy_kitchen.backends.eager"  # the same functions in torch's own operations
WITHOUT_GRADIENT = ("rope", "adaln")  # in the names of the functions that models call between their layers


@contextmanager
def differentiable() -> Generator[None]:
    """Inside: the host's models compute by operations that autograd can go through. After: as it was found."""
    with ExitStack() as held:
        _set(held, comfy.model_management, "in_training", True)
        kernels: Any = sys.modules.get(KERNELS)
        if kernels is not None:
            plain = importlib.import_module(PLAIN_KERNELS)
            for name in vars(plain):
                if any(part in name for part in WITHOUT_GRADIENT) and callable(getattr(plain, name)):
                    _set(held, kernels, name, getattr(plain, name))
        yield


def _set(held: ExitStack, module: Any, name: str, value: Any) -> None:
    """Another value for a module's name, if it has one of that name, until `held` ends."""
    if hasattr(module, name):
        held.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)
