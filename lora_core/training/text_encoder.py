"""What training needs of a host's text encoders, where these are trained too."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn


class TextEncoder(Protocol):
    """Frozen text encoders that autograd can go through; their layers are in the layout of the denoiser beside them."""

    fingerprint: str | None  # equal for encoders that read captions alike; None where that can't be told

    def modules(self) -> dict[str, nn.Module]:
        """Path of a layer, as in the layout -> its module."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """Inside: the encoders are on their device and autograd can go through them. After: all is as it was found."""
        ...

    def encode(self, captions: Sequence[str]) -> list[Any]:
        """A conditioning for each caption, as a sample has it; differentiable. Only inside of `frozen`."""
        ...
