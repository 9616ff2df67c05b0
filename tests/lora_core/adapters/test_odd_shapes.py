"""Tensors of any shape under the names of any algorithm make an adapter that works, or a reason why they don't."""

import itertools

import pytest
import torch
from lora_pack.lora_core.adapters import AdapterParts, BadAdapter, Builder, WholeFile
from lora_pack.lora_core.adapters.building import BUILDERS, build_layer
from torch import Tensor, nn

from .reference_layers import TorchLayer

SIDES = (0, 1, 2, 3, 4, 6)
BESIDE = ("magnitude", "magnitude_per_output", "scale", "reshape", "up_bias", "diff_bias")
TARGETS = ((4, 6), (4, 4), (6,), (), (4, 6, 1, 1), (4, 2, 3, 3), (1, 1))
ROUNDS = 300


def _tensor(rng: torch.Generator) -> Tensor:
    sides = [SIDES[int(torch.randint(len(SIDES), (1,), generator=rng))] for _ in range(_number(5, rng))]
    return torch.randn(sides, generator=rng) * 0.3


def _number(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=rng))


def _fitting(role: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """A tensor whose sides are those of the layer more often than not, so that some adapters get built."""
    out, inputs = (*shape, 1, 1)[:2]
    sizes = [2, out, inputs, max(inputs, 1) * 9, 1, 3]
    return torch.randn([sizes[_number(len(sizes), rng)] for _ in range(2 + (_number(4, rng) == 0))], generator=rng)


def _parts(builder: Builder, shape: tuple[int, ...], rng: torch.Generator) -> AdapterParts:
    roles = set(builder.required) | {role for role in sorted(builder.optional) if _number(2, rng)}
    roles |= {role for role in BESIDE if not _number(8, rng)}
    tensors = {role: _fitting(role, shape, rng) if _number(3, rng) else _tensor(rng) for role in sorted(roles)}
    shared = {name: _fitting(name, (8, 8), rng) for name in ("vera_A", "vera_B") if _number(4, rng)}
    return AdapterParts(
        tensors=tensors,
        shape=shape,
        scale=lambda rank: (1.0 / rank, 1.0),
        alpha=0.01 if _number(2, rng) else None,
        whole=WholeFile(shared=shared),
    )


@pytest.mark.parametrize(("number", "builder"), list(enumerate(BUILDERS)), ids=lambda value: str(value)[:20])
def test_any_shapes_make_an_adapter_or_a_reason(number: int, builder: Builder) -> None:
    rng = torch.Generator().manual_seed(number)
    for _, shape in itertools.product(range(ROUNDS // len(TARGETS)), TARGETS):
        parts = _parts(builder, shape, rng)
        try:
            built = build_layer(parts, has_bias=bool(_number(2, rng)))
        except BadAdapter as told:
            assert str(told)
            continue
        if "weight" not in built.changes:  # biases alone
            continue
        adapter = built.changes["weight"].adapter
        weight = torch.randn(shape, generator=rng)
        assert adapter.delta_of(weight.clone()).shape == weight.shape
        if len(shape) == 2:
            layer = nn.Linear(shape[1], shape[0], bias=False).requires_grad_(False)
            x = torch.randn(3, shape[1], generator=rng)
            plain = layer(x)
            assert adapter.branch(x, plain, TorchLayer(layer)).shape == plain.shape
