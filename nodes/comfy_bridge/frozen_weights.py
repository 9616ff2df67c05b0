"""A host module whose weights autograd may use without training them, and which is put back exactly as it was found."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...lora_core.errors import BadTraining


@dataclass(frozen=True, slots=True, eq=False)
class _StandIn:
    """What stands in the place of a tensor of a module."""

    held: dict[str, Any]  # the module's own table of parameters, buffers or plain attributes
    name: str
    found: Tensor
    replacement: Tensor
    needed_gradient: bool

    def settle(self) -> None:
        """If the host has moved the module's tensor meanwhile: one that autograd may keep again, and one memory.

        Moving changes what a parameter holds, but puts another buffer in the place of a buffer.
        """
        current = self.held.get(self.name)
        if current is not self.replacement:
            if isinstance(current, Tensor) and current.is_inference():
                self.held[self.name] = current.clone()
            return
        if self.replacement.is_inference():
            self.replacement.data = self.replacement.data.clone()
        if self.replacement is not self.found and self.replacement.data_ptr() != self.found.data_ptr():
            self.found.data = self.replacement.data


class StandIns:
    """All that stand in a module."""

    def __init__(self, made: Sequence[_StandIn]) -> None:
        self._made = made

    def settle(self) -> None:
        """Call it when others have used the module: the host may have moved it to another device and back."""
        with torch.inference_mode(False):
            for one in self._made:
                one.settle()


@contextmanager
def stand_ins(module: nn.Module) -> Generator[StandIns]:
    """Weights that a node loaded are inference tensors, which autograd refuses to keep; inside, views of the same
    memory stand in their place, no weight has a gradient, and the module computes as it does when it is not trained.

    Raises BadTraining for weights of a kind that there are no views of.
    """
    with ExitStack() as held:
        made = _stand_in(module)
        held.callback(_put_back, made)
        held.callback(_set_modes, [(one, one.training) for one in module.modules()])
        module.eval()
        found = StandIns(made)
        held.callback(found.settle)
        yield found


def _set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def _stand_in(model: nn.Module) -> list[_StandIn]:
    made: list[_StandIn] = []
    refused: list[str] = []
    with torch.inference_mode(False):
        for path, module in model.named_modules():
            for table in (module._parameters, module._buffers, module.__dict__):  # torch: no public way to replace
                for name, tensor in list(table.items()):
                    if not isinstance(tensor, Tensor):
                        continue
                    if tensor.is_inference() and type(tensor) not in (Tensor, nn.Parameter):
                        refused.append(f"{path}.{name} ({type(tensor).__name__})")
                        continue
                    made.append(_StandIn(table, name, tensor, _view_of(tensor), tensor.requires_grad))
    if refused:
        raise BadTraining(
            [f"weights of this kind can't be trained on: {', '.join(refused[:3])} ({len(refused)} in all)"]
        )
    for one in made:
        one.held[one.name] = one.replacement
        if one.replacement is one.found and one.needed_gradient:
            one.found.requires_grad_(False)
    return made


def _view_of(tensor: Tensor) -> Tensor:
    """The same memory in a tensor that autograd may keep."""
    if not tensor.is_inference():
        return tensor
    view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view


def _put_back(made: Sequence[_StandIn]) -> None:
    for one in made:
        if one.held.get(one.name) is one.replacement:
            one.held[one.name] = one.found
        if one.needed_gradient and not one.found.is_inference():
            one.found.requires_grad_(True)
