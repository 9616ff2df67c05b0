"""The reversible change of a model's forward: layers put beside its modules, and taken away without a trace."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

FORWARD, STATE_DICT = "forward", "state_dict"


class Beside(Protocol):
    """What can stand beside a module: the woven adapters of a graph, or one that is being trained."""

    def __call__(self, x: Tensor, y: Tensor, module: nn.Module) -> Tensor:
        """The module's output y for its input x, with what stands beside it."""
        ...

    def forget_weight(self) -> None:
        """The module's weight may be another one from now on."""
        ...


class BesideForward:
    """What stands in the place of a module's forward: its own result, and the layer's added to it.

    Once taken away it only passes on, so that a wrapper of somebody else that still holds it does no harm.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.layer: Beside | None = None
        self.found: Any = module.__dict__.get(FORWARD)  # None: the class's own

    def __call__(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The module's forward."""
        module = self._module()
        assert module is not None  # it is being called
        original = self.found or _own_forward(module)
        y = original(x, *arguments, **options)
        return y if self.layer is None else self.layer(x, y, module)


class Injection:
    """The layers at work in one model. Attaching replaces what was attached before."""

    def __init__(self) -> None:
        self._attached: dict[nn.Module, BesideForward] = {}
        # Kept for the next time, since compiled code depends on the very object that stands in a module.
        self._made: weakref.WeakKeyDictionary[nn.Module, BesideForward] = weakref.WeakKeyDictionary()
        self._told: dict[nn.Module, tuple[Any, Any]] = {}  # what stood in the place of a state_dict, and what does
        self.owner: object = None  # whoever attached; only its detaching counts

    def attach(
        self,
        layers: Mapping[nn.Module, Beside],
        owner: object,
        state_dicts: Mapping[nn.Module, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        """Put layers beside modules; `state_dicts` says what the state_dict of some modules is meanwhile."""
        self.detach()
        self._finish_detaching()
        self.owner = owner
        try:
            for module, layer in layers.items():
                beside = self._beside(module)
                beside.layer = layer
                layer.forget_weight()
                self._attached[module] = beside
                module.forward = beside
            for module, state_dict in state_dicts.items():
                self._told[module] = (module.__dict__.get(STATE_DICT), state_dict)
                module.__dict__[STATE_DICT] = state_dict
        except BaseException:
            self.detach()
            raise

    def _finish_detaching(self) -> None:
        """Take away what a detaching ended by an error has left: it only passes on, but copies of a model have it."""
        for module in list(self._made):
            while isinstance(left := module.__dict__.get(FORWARD), BesideForward) and left.layer is None:
                _restore(module, left)

    def _beside(self, module: nn.Module) -> BesideForward:
        made = self._made.get(module)
        if made is None or made.found is not module.__dict__.get(FORWARD):
            made = self._made[module] = BesideForward(module)
        return made

    def detach(self, owner: object = None) -> None:
        """Take all layers away, also if some raise; with an owner given, only if they are its own."""
        if owner is not None and owner is not self.owner:
            return
        self.owner = None
        with ExitStack() as undone:
            while self._attached:
                module, beside = self._attached.popitem()
                beside.layer = None
                undone.callback(_restore, module, beside)
            while self._told:
                undone.callback(_untell, *self._told.popitem())


def _restore(module: nn.Module, beside: BesideForward) -> None:
    current = module.__dict__.get(FORWARD)
    if current is beside:
        if beside.found is None:
            del module.__dict__[FORWARD]
        else:
            module.__dict__[FORWARD] = beside.found
        return
    # Somebody wrapped us and still holds us as the original: let it hold what we found, so that its own restoring
    # leaves no trace of us.
    holder = getattr(current, "__self__", current)
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if value is beside:
            setattr(holder, name, beside.found if beside.found is not None else _own_forward(module))


def _untell(module: nn.Module, told: tuple[Any, Any]) -> None:
    found, own = told
    if module.__dict__.get(STATE_DICT) is not own:
        return  # somebody else's stands there, and goes on asking ours, which passes on once it is alone
    if found is None:
        del module.__dict__[STATE_DICT]
    else:
        module.__dict__[STATE_DICT] = found


def _own_forward(module: nn.Module) -> Any:
    return type(module).forward.__get__(module)
