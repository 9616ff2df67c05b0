"""The gradient of a loss, also through models that change in place what a gradient needs."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

CHANGED = "modified by an inplace operation"  # in the error by which torch refuses to give a wrong gradient


class BackwardPass:
    """Goes back through a model; once torch has said that it changes kept values in place, copies of them are kept.

    A copy is made where such a value is changed, and of no other (torch.autograd.graph), which costs a look at each
    operation; so models that change nothing in place don't have it.
    """

    def __init__(self, forget: Callable[[], object]) -> None:
        """forget: lets go of the gradients that a pass left which did not come to its end."""
        self._forget = forget
        self.keeps_copies = False

    def __call__(self, loss: Callable[[], Tensor], scale: float) -> Tensor:
        """The loss, detached; the gradients of scale * loss are added to those of the parameters."""
        try:
            return self._once(loss, scale)
        except RuntimeError as error:
            if self.keeps_copies or CHANGED not in str(error):
                raise
        self._forget()
        self.keeps_copies = True
        return self._once(loss, scale)

    def _once(self, loss: Callable[[], Tensor], scale: float) -> Tensor:
        with allow_mutation_on_saved_tensors() if self.keeps_copies else nullcontext():
            value = loss()
            torch.autograd.backward(value * scale)
            return value.detach()
