"""The branch's gradients against finite differences, its output against the matrices, the buffer against its views."""

from typing import Any, cast

import pytest
import torch
from lora_pack.lora_core.training.flat_parameters import FlatParameters
from lora_pack.lora_core.training.settings import INITS
from lora_pack.lora_core.training.trainable import AddLowRank, TrainableLayer
from torch import Tensor, nn

add: Any = cast("Any", AddLowRank).apply


def _layer(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> TrainableLayer:
    rng = torch.Generator().manual_seed(2)
    down, up = (nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in shapes)
    return TrainableLayer(down, up, 1.5)


def test_the_branchs_gradients_are_those_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(1)
    shapes = ((6, 4), (6, 5), (2, 4), (5, 2))
    inputs = [torch.randn(shape, dtype=torch.float64, generator=rng).requires_grad_(True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *tensors: add(*tensors, 0.7), inputs)
    inputs[0].requires_grad_(False)  # the first layer of a frozen model
    assert torch.autograd.gradcheck(lambda *tensors: add(*tensors, 0.7), inputs)


def test_both_kinds_of_layer_add_scale_times_up_times_down() -> None:
    linear, x = nn.Linear(4, 5).double(), torch.randn(2, 3, 4, dtype=torch.float64).transpose(0, 1)
    one = _layer((2, 4), (5, 2))
    torch.testing.assert_close(one(x, linear(x), linear) - linear(x), 1.5 * x @ (one.up @ one.down).t())
    conv, x = nn.Conv2d(3, 6, 3, stride=2, padding=1).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    two = _layer((2, 3, 3, 3), (6, 2, 1, 1))
    delta = (two.up.flatten(1) @ two.down.flatten(1)).reshape(6, 3, 3, 3)
    torch.testing.assert_close(two(x, conv(x), conv) - conv(x), 1.5 * torch.conv2d(x, delta, stride=2, padding=1))


def test_every_gradient_lands_in_the_one_buffer() -> None:
    flat = FlatParameters([[(2, 4)], [(5, 2)]], torch.device("cpu"))
    flat.whole.data.copy_(torch.randn(flat.whole.shape, generator=torch.Generator().manual_seed(1)))
    linear, x = nn.Linear(4, 5).requires_grad_(False), torch.randn(3, 4)
    layer = TrainableLayer(*flat.views, 1.5)
    for _ in range(2):
        layer(x, linear(x), linear).square().sum().backward()
    parts = [cast("Tensor", view.grad).flatten() for view in flat.views]
    assert bool(flat.gradient.ne(0).all()) and torch.equal(torch.cat(parts), flat.gradient)


def test_clipping_is_that_of_torch() -> None:
    flat, other = FlatParameters([[(50,)]], torch.device("cpu")), nn.Parameter(torch.zeros(50))
    other.grad = torch.randn(50) * 3
    flat.gradient.copy_(other.grad)
    norm = flat.clip(1.0)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_([other], 1.0))
    torch.testing.assert_close(flat.gradient, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_smaller_dtype_computes_and_the_factors_keep_their_own(dtype: torch.dtype) -> None:
    layer = _layer((2, 4), (5, 2), dtype=torch.float32)
    linear, x = nn.Linear(4, 5).to(dtype).requires_grad_(False), torch.randn(3, 4).to(dtype)
    out = layer(x, linear(x), linear)
    out.sum().backward()
    assert out.dtype == dtype and layer.down.grad is not None and layer.down.grad.dtype == torch.float32


@pytest.mark.parametrize(("init", "spread"), [("kaiming", 1 / (3 * 400) ** 0.5), ("gaussian", 0.5)])
def test_every_start_is_drawn_from_the_seed(init: str, spread: float) -> None:
    def start(seed: int) -> Tensor:
        return INITS[init](torch.empty(2, 400), torch.Generator().manual_seed(seed))

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))
    assert float(start(1).std()) == pytest.approx(spread, rel=0.1)
