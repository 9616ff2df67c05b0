"""A state dict whose values are worked out when they are read: keys cost nothing, and one merge is held at a time."""

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from torch import nn


def raw_state_dict(module: nn.Module) -> dict[str, Any]:
    """A module's parameters and buffers as they are, also while a weave is in it."""
    return type(module).state_dict(module)


Merge = Callable[[str, Any], Any]  # (key, its value) -> what a reader gets


class MergedStateDict(OrderedDict[str, Any]):
    """What a module's state_dict gives, with a function over its values. What a reader writes, it reads again."""

    def __init__(self, found: Mapping[str, Any], merge: Merge) -> None:
        super().__init__()
        self._merge = merge
        self._written: set[str] = set()
        self._metadata = getattr(found, "_metadata", None)
        for key in found:
            super().__setitem__(key, found[key])

    def __getitem__(self, key: str) -> Any:
        """The merged value."""
        value = super().__getitem__(key)
        return value if key in self._written else self._merge(key, value)

    def __setitem__(self, key: str, value: Any) -> None:
        """Hold a value as it is."""
        self._written.add(key)
        super().__setitem__(key, value)

    def __iter__(self) -> Iterator[str]:
        """The keys; defined here so that a copy asks for the values."""
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        """The merged value, or the default."""
        if key not in self:
            return default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """The merged value, which is let go of."""
        if key not in self:
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def items(self) -> ItemsView[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keys and merged values."""
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The merged values."""
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All values merged, in a plain dict."""
        return {key: self[key] for key in self}
