"""Other forwards in the place of those of a host's modules while it is trained, and theirs again after."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def other_forwards(
    modules: Iterable[nn.Module], make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Generator[None]:
    """Inside, every module computes by what `make` makes of its forward."""
    found: list[tuple[nn.Module, Any]] = []
    try:
        for module in modules:
            found.append((module, module.__dict__.get("forward")))
            module.forward = make(module.forward)
        yield
    finally:
        for module, before in reversed(found):
            if before is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = before


class OnCopy:
    """A forward that sees a copy of its first input, whatever becomes of that input later."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, x: Tensor, *inputs: Any, **options: Any) -> Any:
        return self._forward(x.clone() if torch.is_grad_enabled() else x, *inputs, **options)
