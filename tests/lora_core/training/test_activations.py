"""What a forward pass keeps is counted, and let go of."""

import gc
import weakref

import torch
from lora_pack.lora_core.training.activations import saved_bytes
from torch import Tensor


def test_bytes_that_a_gradient_needs_are_counted_once_for_each_storage_without_parameters() -> None:
    x = torch.ones(10, 10, requires_grad=True)
    weight = torch.nn.Parameter(torch.ones(10, 10))
    assert (
        saved_bytes(lambda: (x.exp() @ weight).sum()) == 2 * 400 - 400
    )  # exp keeps its output, which the product has too


def test_what_was_counted_is_let_go_of() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def forward() -> Tensor:
        y = torch.ones(10, requires_grad=True).exp()  # its own output is what its gradient needs
        kept.append(weakref.ref(y))
        return y.sum()

    saved_bytes(forward)
    gc.collect()
    assert kept[0]() is None
