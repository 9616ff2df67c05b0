"""Fixtures of the oracle tests: the twins, made once, and one thread for their tiny matrices.

Our own modules are imported inside the fixtures, since pytest reads this file before it has entered the host.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from .adapters import PeftAdapter, Trained
    from .tiny_clips import TwinClip
    from .tiny_unets import TwinUNet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On matrices this small, threads only wait for one another: a hundred times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers that are made in a test are float64, the trained ones among them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def twins(host: object) -> "dict[str, TwinUNet]":
    """Family -> its pair of UNets."""
    from .tiny_unets import twin_unet

    return {family: twin_unet(family) for family in ("SD1.5", "SDXL")}


@pytest.fixture(scope="session")
def clips(host: object) -> "dict[str, TwinClip]":
    """Family -> its pair of text encoders, or two pairs."""
    from .tiny_clips import twin_clip

    return {family: twin_clip(family) for family in ("SD1.5", "SDXL")}


@pytest.fixture(scope="session")
def trained(twins: "dict[str, TwinUNet]") -> "Trained":
    """(family, recipe) -> a trained adapter, and the reference's output with it at strength 1."""
    from .adapters import injected, set_strengths

    @functools.cache
    def of(family: str, recipe: str) -> "tuple[PeftAdapter, torch.Tensor]":
        twin = twins[family]
        with injected(twin.reference, {"one": recipe}) as (adapter,):
            set_strengths(twin.reference, {"one": 1.0})
            return adapter, twin.reference_output()

    return of
