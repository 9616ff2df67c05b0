"""Strengths over the steps: the text of a curve, its factors, and layers whose samples have strengths of their own."""

import copy
from typing import Any

import pytest
import torch
from lora_pack.lora_core.adapters import FullDelta, LowRank
from lora_pack.lora_core.adapters.magnitude import Magnitude
from lora_pack.lora_core.errors import BadSchedule, LoraError, NotPerImage
from lora_pack.lora_core.weave import PlannedLora, Schedule, parse_schedule, strengths_at
from lora_pack.lora_core.weave.strand import Strand, can_move_beside, can_stand_beside
from lora_pack.lora_core.weave.woven_layer import WovenLayer
from torch import Tensor, nn

OUT, IN = 12, 8


@pytest.mark.parametrize(
    ("text", "position", "factor"),
    [
        ("0:0, 0.3:1, 1:0.5", 0.0, 0.0),
        ("0:0, 0.3:1, 1:0.5", 0.15, 0.5),
        ("0:0, 0.3:1, 1:0.5", 0.3, 1.0),
        ("0:0, 0.3:1, 1:0.5", 0.65, 0.75),
        ("0:0, 0.3:1, 1:0.5", 1.0, 0.5),
        ("0.2:3, 0.8:-1", 0.0, 3.0),  # before the first point
        ("0.2:3, 0.8:-1", 1.0, -1.0),  # after the last
        ("0:1, 0.5:1, 0.5:0", 0.4999, 1.0),  # a jump
        ("0:1, 0.5:1, 0.5:0", 0.5, 0.0),
        ("1:0.5\n0:0,,0.3:1", 0.15, 0.5),  # any order, and lines
        ("0.4:0.7", 0.9, 0.7),
    ],
)
def test_a_factor_lies_on_the_line_between_its_neighbours(text: str, position: float, factor: float) -> None:
    assert parse_schedule(text).factor(position) == pytest.approx(factor)


def test_the_text_of_a_schedule_reads_as_itself() -> None:
    schedule = parse_schedule("0:0, 0.3:1, 0.3:-2.5, 1:0.125")
    assert schedule.text() == "0:0, 0.3:1, 0.3:-2.5, 1:0.125"
    assert parse_schedule(schedule.text()) == schedule


def test_one_error_lists_every_point_that_cannot_be_read() -> None:
    with pytest.raises(BadSchedule) as caught:
        parse_schedule("0:1, half:1, 0.5, 2:1, 0.1:nan, 0.2:1e9, 0.3:0.5:1, 1:1")
    assert len(caught.value.reasons) == 6
    for offender in ("'half:1'", "'0.5'", "'2:1'", "'0.1:nan'", "'0.2:1e9'", "'0.3:0.5:1'"):
        assert offender in str(caught.value)
    assert isinstance(caught.value, LoraError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " , \n", ",".join(["0:1"] * 65)])
def test_no_point_and_too_many_points_say_what_was_expected(text: str) -> None:
    with pytest.raises(BadSchedule, match="expected"):
        parse_schedule(text)


def test_samples_at_positions_of_their_own_get_strengths_of_their_own() -> None:
    """As video models denoise some frames ahead of others. The samples are two images in two chunks."""

    def row(strength: float, schedule: Schedule | None, images: tuple[float, ...] = ()) -> PlannedLora:
        lora: Any = None
        return PlannedLora(lora, strength, "auto", frozenset({"unet"}), schedule=schedule, images=images)

    rows = [row(2.0, parse_schedule("0:0, 1:1")), row(0.5, None), row(1.0, None, (3.0, 4.0))]
    found = strengths_at(rows, [0.0, 0.5, 0.5, 1.0], 2)
    assert found.tolist() == [[0, 0.5, 3], [1, 0.5, 4], [1, 0.5, 3], [2, 0.5, 4]]
    assert strengths_at(rows[:2], [0.5] * 4, 2).tolist() == [1.0, 0.5]


def _woven(shape: tuple[int, ...]) -> WovenLayer:
    """Every kind of branch that a layer can have, of four files."""
    torch.manual_seed(0)
    inputs = torch.Size(shape[1:]).numel()
    low = LowRank(torch.randn(2, inputs), torch.randn(shape[0], 2), 0.5, shape)
    part_shape = (4, *shape[1:])
    part = LowRank(torch.randn(3, inputs), torch.randn(4, 3), 1.5, part_shape)
    dora = Magnitude(low, torch.rand(shape[0], *[1] * (len(shape) - 1)) + 0.5, per_input=False)
    full = FullDelta(torch.randn(part_shape))
    strands = [
        Strand(low, 0, None),
        Strand(part, 1, (4, 8)),
        Strand(FullDelta(torch.randn(shape[0])), 2, None, True),
        Strand(dora, 3, None),
        Strand(full, 1, (8, 12)),
    ]
    return WovenLayer(strands, shape, torch.float32)


STRENGTHS = torch.tensor([[1.0, 0.0, -0.5, 0.3], [0.0, 0.7, 1.0, 0.0], [-2.0, 0.4, 0.0, 1.0]])


@pytest.mark.parametrize("shape", [(3, IN), (3, 5, IN), (3, 2, 5, IN)], ids=["rows", "tokens", "frames"])
@torch.no_grad()
def test_each_sample_of_a_linear_layer_has_its_own_strengths(shape: tuple[int, ...]) -> None:
    _samples_agree(nn.Linear(IN, OUT), torch.randn(shape, generator=torch.Generator().manual_seed(2)))


@torch.no_grad()
def test_each_sample_of_a_convolution_has_its_own_strengths() -> None:
    x = torch.randn(3, IN, 7, 6, generator=torch.Generator().manual_seed(2))
    _samples_agree(nn.Conv2d(IN, OUT, 3, stride=2, padding=1), x)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(OUT), (3, 5, OUT)),
        (nn.RMSNorm(OUT, eps=1e-6), (3, 2, 5, OUT)),
        (nn.GroupNorm(4, OUT), (3, OUT, 7, 6)),
    ],
    ids=["layer", "rms", "group"],
)
@torch.no_grad()
def test_a_norm_and_its_bias_follow_as_if_they_were_written(norm: nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(4)
    has_bias = getattr(norm, "bias", None) is not None
    weight, bias = FullDelta(torch.randn(OUT, generator=generator)), FullDelta(torch.randn(OUT, generator=generator))
    assert can_move_beside(weight, norm, is_bias=False) and can_move_beside(bias, norm, is_bias=True)
    assert not can_stand_beside(weight, norm, is_bias=False)  # at a fixed strength a merge is cheaper
    strands = [Strand(weight, 0, None), *([Strand(bias, 1, None, True)] if has_bias else [])]
    woven = WovenLayer(strands, (OUT,), torch.float32)
    strengths = torch.tensor([[0.5, -1.0], [0.0, 0.3], [-2.0, 0.0]])
    woven.set_strengths(strengths)
    x = torch.randn(shape, generator=generator)
    found = woven(x, norm(x), norm)
    for number, (of_weight, of_bias) in enumerate(strengths.tolist()):
        changed = copy.deepcopy(norm)
        changed.weight += of_weight * weight.delta()  # pyright: ignore[reportOperatorIssue]
        if has_bias:
            changed.bias += of_bias * bias.delta()  # pyright: ignore[reportOperatorIssue]
        torch.testing.assert_close(found[number], changed(x)[number])


def _samples_agree(module: nn.Module, x: Tensor) -> None:
    woven = _woven(tuple(module.weight.shape))  # pyright: ignore[reportArgumentType, reportCallIssue]
    woven.set_strengths(STRENGTHS)
    batch = woven(x, module(x), module)
    for number, strengths in enumerate(STRENGTHS):
        one = x[number : number + 1]
        woven.set_strengths(strengths)
        torch.testing.assert_close(batch[number : number + 1], woven(one, module(one), module), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(batch[0], batch[1], atol=0.1)


@torch.no_grad()
def test_rows_that_belong_to_one_sample_get_its_strengths() -> None:
    """As a video model flattens frames, or a radiance model patches, behind each other."""
    module, woven = nn.Linear(IN, OUT), _woven((OUT, IN))
    woven.set_strengths(STRENGTHS)
    x = torch.randn(3, 4, IN, generator=torch.Generator().manual_seed(2))
    flat = x.reshape(12, IN)
    torch.testing.assert_close(woven(flat, module(flat), module).reshape(3, 4, OUT), woven(x, module(x), module))


@pytest.mark.parametrize("shape", [(4, IN), (1, 5, IN), (IN,)])
@torch.no_grad()
def test_a_layer_that_does_not_see_the_samples_is_refused(shape: tuple[int, ...]) -> None:
    module, woven = nn.Linear(IN, OUT), _woven((OUT, IN))
    woven.set_strengths(STRENGTHS)
    with pytest.raises(NotPerImage, match="strengths for 3 images"):
        woven(torch.randn(shape), module(torch.randn(shape)), module)


@torch.no_grad()
def test_strengths_of_samples_leave_nothing_behind_when_all_are_alike_again() -> None:
    module, woven = nn.Linear(IN, OUT), _woven((OUT, IN))
    x = torch.randn(3, 5, IN)
    woven.set_strengths(STRENGTHS[0])
    before = woven(x, module(x), module)
    woven.set_strengths(STRENGTHS)
    woven(x, module(x), module)
    woven.set_strengths(STRENGTHS[0])
    assert torch.equal(woven(x, module(x), module), before)


def test_compiled_code_stays_valid_over_the_steps_of_a_schedule() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    module = nn.Linear(IN, OUT).requires_grad_(False)
    woven = WovenLayer(
        [Strand(LowRank(torch.randn(2, IN), torch.randn(OUT, 2), 1.0, (OUT, IN)), 0, None)], (OUT, IN), torch.float32
    )
    counter = CompileCounter()
    compiled = torch.compile(lambda x: woven(x, module(x), module), backend=counter)
    schedule, x = parse_schedule("0:0, 1:2"), torch.randn(2, IN)
    for step in range(5):
        woven.set_strengths(torch.tensor([schedule.factor(step / 4)]))
        torch.testing.assert_close(compiled(x), woven(x, module(x), module))
        if step == 0:
            frames = counter.frame_count
    assert counter.frame_count == frames
