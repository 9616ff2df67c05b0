"""Calls whose activations are made again in the backward pass, also where a model changes tensors in place."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

CONTAINERS = (tuple, list, Mapping)
PLAIN = (str, bytes, int, float, bool, type(None), torch.nn.Module, torch.dtype, torch.device, type)


class Recomputed:
    """A function that keeps nothing but its inputs for the backward pass, and runs again there.

    It works on copies of its tensors, so that it may change them in place; if anybody else changes an input after the
    call, autograd says so. torch.utils.checkpoint keeps what is made again without such a check, and gives wrong
    gradients, silently, where a block changes in place what one of its layers has kept (measured: up to 0.5 % on
    LTX-Video). Source of the idea: Chen et al. 2016 (arXiv 1604.06174).
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the function says; a tensor, or containers of tensors and others."""
        if not torch.is_grad_enabled():
            return self._forward(*inputs, **options)
        call = _Call(self._forward, (inputs, options))
        call.result = None
        anchor = torch.zeros((), requires_grad=True)  # the layers inside are trained, even if no input has a gradient
        apply: Callable[..., tuple[Tensor, ...]] = cast("Any", _RunAgain).apply
        made = apply(call, anchor, *tensors_of(call.arguments))
        return with_tensors(call.result, iter(made))


class _Call:
    """A call that can be made again with other tensors."""

    def __init__(self, forward: Callable[..., Any], arguments: Any) -> None:
        self._forward, self.arguments = forward, arguments
        self.result: Any = None  # of the first run; tells what it consists of

    def __call__(self, tensors: Iterator[Tensor]) -> Any:
        inputs, options = with_tensors(self.arguments, tensors)
        return self._forward(*inputs, **options)


class _RunAgain(torch.autograd.Function):
    """The call without a graph, and the graph of the same call when its gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, call: _Call, anchor: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        call.result = call(iter([tensor.clone() for tensor in tensors]))
        return tuple(_own(tensors_of(call.result)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Runs the call with a graph of its own and goes back through that."""
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        with torch.enable_grad():
            made = list(tensors_of(ctx.call(iter([leaf.clone() for leaf in leaves]))))
        asked = [(one, g) for one, g in zip(made, gradients, strict=True) if one.requires_grad and g is not None]
        if asked:
            torch.autograd.backward([one for one, _ in asked], [g for _, g in asked])
        return None, None, *(leaf.grad for leaf in leaves)


def _own(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    """Each with memory of its own, so that whoever asked may change it in place."""
    seen: set[int] = set()
    for tensor in tensors:
        yield tensor.clone() if id(tensor) in seen or tensor._base is not None else tensor
        seen.add(id(tensor))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in containers and in objects that hold some, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
        return
    inside = _inside(value) if isinstance(value, CONTAINERS) else _attributes(value).values()
    for one in inside:
        yield from tensors_of(one)


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """A copy with other tensors in their places; what holds none is handed on as it is."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, CONTAINERS):
        if next(tensors_of(value), None) is None:
            return cast("Any", value)
        return _rebuilt(value, [with_tensors(one, tensors) for one in _inside(value)])
    found = _attributes(value)
    if not found:
        return value
    other = copy.copy(value)
    cast("dict[str, Any]", vars(other)).update({name: next(tensors) for name in found})
    return other


def _inside(container: Any) -> list[Any]:
    return list(cast("Mapping[Any, Any]", container).values() if isinstance(container, Mapping) else container)


def _rebuilt(container: Any, inside: list[Any]) -> Any:
    if isinstance(container, Mapping):
        return dict(zip(cast("Any", container), inside, strict=True))
    kind = cast("Any", type(container))
    return kind(*inside) if hasattr(kind, "_fields") else kind(inside)


def _attributes(value: Any) -> dict[str, Tensor]:
    """The tensors that an object holds, if it is one of a host's own small classes."""
    if isinstance(value, PLAIN) or callable(value) or not hasattr(value, "__dict__"):
        return {}
    held = cast("dict[str, Any]", vars(value))
    return {name: one for name, one in held.items() if isinstance(one, Tensor)}
