"""Woven layers: the sum of all branches, taken away without a trace, compiled once, and chosen by numbers."""

from collections.abc import Callable, Mapping

import pytest
import torch
from lora_pack.lora_core.adapters import Adapter, FullDelta, LowRank
from lora_pack.lora_core.adapters.magnitude import Magnitude
from lora_pack.lora_core.adapters.row_order import SwappedHalves
from lora_pack.lora_core.loading.loaded_lora import PlacedAdapter
from lora_pack.lora_core.names.name_table import Place
from lora_pack.lora_core.weave.injection import FORWARD, Injection
from lora_pack.lora_core.weave.policy import LayerCost, decide
from lora_pack.lora_core.weave.strand import Strand, can_act_beside, can_stand_beside, strand
from lora_pack.lora_core.weave.woven_layer import WovenLayer
from torch import Tensor, nn

OUT, IN = 12, 8
KINDS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(IN, OUT),
    "conv 1d": lambda: nn.Conv1d(IN, OUT, 3, padding=1),
    "conv 2d": lambda: nn.Conv2d(IN, OUT, 3, stride=2, padding=1, dilation=1),
    "conv 3d": lambda: nn.Conv3d(IN, OUT, (1, 3, 3), padding=(0, 1, 1)),
}
INPUTS: Mapping[str, tuple[int, ...]] = {
    "linear": (2, 5, IN),
    "conv 1d": (2, IN, 9),
    "conv 2d": (2, IN, 7, 7),
    "conv 3d": (2, IN, 3, 5, 5),
}


def low_rank(shape: tuple[int, ...], rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.Size(shape[1:]).numel()
    down, up = torch.randn(rank, inputs, generator=generator), torch.randn(shape[0], rank, generator=generator)
    return LowRank(down, up, 0.5 + seed, shape)


def placed(adapter: Adapter, rows: tuple[int, int] | None = None, parameter: str = "weight") -> PlacedAdapter:
    return PlacedAdapter(Place("layer", rows), "unet", adapter, f"layer.{parameter}", parameter)


def expected(module: nn.Module, x: Tensor, group: list[PlacedAdapter], strengths: list[float]) -> Tensor:
    """The output with every delta written into a float64 copy of the layer."""
    changed = KINDS[next(kind for kind, make in KINDS.items() if type(make()) is type(module))]().double()
    changed.load_state_dict(module.state_dict())
    with torch.no_grad():
        for one, strength in zip(group, strengths, strict=True):
            parameter = getattr(changed, one.parameter)
            start, stop = one.place.rows or (0, parameter.shape[0])
            delta = one.adapter.delta_of(parameter[start:stop].float()).double()
            parameter[start:stop] += strength * delta
        return changed(x.double())


@pytest.mark.parametrize("kind", KINDS)
def test_all_adapters_of_a_layer_add_up_each_at_its_strength_and_on_its_rows(kind: str) -> None:
    torch.manual_seed(0)
    module = KINDS[kind]().requires_grad_(False)
    shape = tuple(module.weight.shape)
    third = (OUT // 3, *shape[1:])
    group = [
        placed(low_rank(shape, 2, 0)),
        placed(low_rank(third, 3, 1), (4, 8)),
        placed(low_rank(shape, 1, 2)),
        placed(low_rank(third, 2, 3), (4, 8)),
        placed(low_rank(third, 2, 4), (8, 12)),
        placed(FullDelta(torch.randn(OUT)), None, "bias"),
        placed(FullDelta(torch.randn(4)), (4, 8), "bias"),
        placed(FullDelta(torch.randn(shape)), None),
        placed(FullDelta(torch.randn(third)), (0, 4)),
    ]
    strengths = [1.0, -0.5, 0.0, 2.0, 0.3, 0.7, -1.0, 0.4, 1.5]
    woven = WovenLayer([strand(one, number) for number, one in enumerate(group)], shape, torch.float32)
    woven.set_strengths(torch.tensor(strengths))
    x = torch.randn(INPUTS[kind])
    result = woven(x, module(x), module)
    torch.testing.assert_close(result.double(), expected(module, x, group, strengths), atol=2e-4, rtol=1e-5)
    assert woven.rank == 2 + 3 + 1 + 2 + 2
    assert woven.down is not None and woven.down.shape == (10, *shape[1:])


def test_a_modulation_whose_halves_the_trainer_swapped_is_woven_in_the_models_order() -> None:
    torch.manual_seed(0)
    module = nn.Linear(IN, OUT).requires_grad_(False)
    group = [placed(SwappedHalves(low_rank((OUT, IN), 2, 0)))]
    assert can_stand_beside(group[0].adapter, module, is_bias=False)
    woven = WovenLayer([strand(group[0], 0)], (OUT, IN), torch.float32)
    woven.set_strengths(torch.tensor([0.7]))
    x = torch.randn(3, IN)
    torch.testing.assert_close(
        woven(x, module(x), module).double(), expected(module, x, group, [0.7]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_changes_the_output_to_within_its_own_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Linear(256, 256).requires_grad_(False)
    adapter = low_rank((256, 256), 16, 0)
    woven = WovenLayer([Strand(adapter, 0, None)], (256, 256), dtype)
    x = torch.randn(64, 256).to(dtype)
    y = module(x.float()).to(dtype)
    found = woven(x, torch.zeros_like(y), module).double()
    exact = x.double() @ adapter.delta().double().T
    assert (found - exact).norm() / exact.norm() <= 0.01


def test_an_output_that_needs_a_gradient_is_not_written_to() -> None:
    module = nn.Linear(IN, OUT)
    woven = WovenLayer([Strand(low_rank((OUT, IN), 2, 0), 0, None)], (OUT, IN), torch.float32)
    x = torch.randn(3, IN, requires_grad=True)
    y = module(x)
    kept = y.clone()
    woven(x, y, module).sum().backward()
    assert torch.equal(y, kept)
    delta = low_rank((OUT, IN), 2, 0).delta()
    torch.testing.assert_close(x.grad, (module.weight + delta).sum(dim=0).expand(3, IN))


def test_attaching_and_detaching_restores_what_was_found_also_after_an_error() -> None:
    module, other = nn.Linear(IN, OUT), nn.Linear(IN, OUT)
    mine = module.forward  # an instance's own forward, as a third party would leave it
    module.forward = mine
    woven = WovenLayer([Strand(low_rank((OUT, IN), 2, 0), 0, None)], (OUT, IN), torch.float32)
    injection = Injection()
    owner = object()
    injection.attach({module: woven, other: woven}, owner)
    assert module.__dict__[FORWARD] is not mine and FORWARD in other.__dict__
    injection.detach(object())  # somebody else's
    assert FORWARD in other.__dict__
    injection.detach(owner)
    assert module.__dict__[FORWARD] is mine and FORWARD not in other.__dict__
    with pytest.raises(TypeError):
        injection.attach({module: woven, None: woven}, owner)  # pyright: ignore[reportArgumentType]
    assert module.__dict__[FORWARD] is mine


def test_compiled_code_stays_valid_when_a_strength_changes() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(IN, IN), nn.ReLU(), nn.Linear(IN, OUT)).requires_grad_(False)
    layers = {
        module: WovenLayer(
            [Strand(low_rank(tuple(module.weight.shape), 2, 0), 0, None)], tuple(module.weight.shape), torch.float32
        )
        for module in net
        if isinstance(module, nn.Linear)
    }
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter)
    injection, x = Injection(), torch.randn(2, IN)
    outputs: list[Tensor] = []
    for strength in (1.0, 0.5, -2.0):
        for layer in layers.values():
            layer.set_strengths(torch.tensor([strength]))
        injection.attach(layers, object())
        outputs.append(compiled(x))
        assert torch.allclose(outputs[-1], net(x), atol=1e-5)
        injection.detach()
        if strength == 1.0:
            frames = counter.frame_count
    assert counter.frame_count == frames
    assert not torch.allclose(outputs[0], outputs[1])


def test_auto_weighs_the_ranks_against_the_size_of_the_model() -> None:
    def cost(rank: int) -> list[LayerCost]:
        return [LayerCost((1280, 1280), rank, 2)] * 500

    few, many = (
        decide(cost(16), 5_000_000_000, is_quantised=False),
        decide(cost(4096), 5_000_000_000, is_quantised=False),
    )
    assert (few.is_branch, many.is_branch) == (True, False)
    assert "predicted" in few.reason and "predicted" in many.reason
    assert decide(cost(4096), 1, is_quantised=True).is_branch


class Int8Linear(nn.Module):
    """A quantised layer that is no nn.Linear, as hosts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = IN, OUT
        self.weight = nn.Parameter(torch.randint(-127, 127, (OUT, IN), dtype=torch.int8), requires_grad=False)
        self.scale_weight = torch.tensor(0.01)
        self.bias = nn.Parameter(torch.randn(OUT), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale_weight, self.bias)


def test_a_quantised_layer_of_a_class_of_its_own_takes_every_kind_of_adapter() -> None:
    torch.manual_seed(0)
    module = Int8Linear()
    low = low_rank((OUT, IN), 2, 0)
    dora = Magnitude(low, torch.rand(OUT, 1) + 0.5, per_input=False)
    assert can_stand_beside(low, module, is_bias=False)
    assert not can_stand_beside(dora, module, is_bias=False) and can_act_beside(dora, module)
    woven = WovenLayer([Strand(low, 0, None), Strand(dora, 1, None)], (OUT, IN), torch.float32)
    woven.set_strengths(torch.tensor([0.5, -1.0]))
    weight = module.weight.float() * 0.01
    x = torch.randn(3, IN)
    changed = weight + 0.5 * low.delta() - dora.delta_of(weight)
    torch.testing.assert_close(woven(x, module(x), module), nn.functional.linear(x, changed, module.bias))


def test_a_woven_layer_prints_the_files_ranks_and_strengths_that_it_has_now() -> None:
    group = [
        placed(low_rank((OUT, IN), 2, 0)),
        placed(low_rank((OUT, IN), 3, 1)),
        placed(FullDelta(torch.ones(OUT, IN))),
    ]
    strands = [strand(one, number) for number, one in enumerate(group)]
    woven = WovenLayer(strands, (OUT, IN), torch.float32, ["style", "shape", "whole"])
    woven.set_strengths(torch.tensor([0.5, -1.0, 2.0]))
    assert "style: rank 2 at 0.5, shape: rank 3 at -1, whole: FullDelta at 2" in repr(woven)
    woven.set_strengths(torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.5]]))
    assert "style: rank 2 at 0 to 1, shape: rank 3 at 1, whole: FullDelta at 0 to 0.5" in repr(woven)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_strength_is_printed_as_it_was_set_also_where_it_is_held_in_few_bits(dtype: torch.dtype) -> None:
    woven = WovenLayer([strand(placed(low_rank((OUT, IN), 2, 0)), 0)], (OUT, IN), dtype, ["style"])
    woven.set_strengths(torch.tensor([0.75]))
    assert "style: rank 2 at 0.75" in repr(woven)
