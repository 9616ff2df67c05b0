"""Sweeps: lists of strengths as text, and the order of the cells."""

import pytest
from lora_pack.lora_core.errors import BadSetting
from lora_pack.lora_core.weave.sweep import Axis, Sweep, parse_strengths, sweep_of


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("0, 0.5, 1", (0.0, 0.5, 1.0)),
        ("0..1 step 0.25", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("1..-0.5 step 0.5", (1.0, 0.5, 0.0, -0.5)),
        ("0 .. 0.3 STEP 0.1", (0.0, 0.1, 0.2, 0.3)),
        ("0..1 step 0.4", (0.0, 0.4, 0.8)),
        ("-1\n0..1 step 1,, 2e0", (-1.0, 0.0, 1.0, 2.0)),
        (".5", (0.5,)),
        (".5...7 step .1", (0.5, 0.6, 0.7)),
        ("1..1 step 3", (1.0,)),
    ],
)
def test_numbers_and_ranges_with_both_ends_are_read(text: str, strengths: tuple[float, ...]) -> None:
    assert parse_strengths(text) == strengths


def test_one_error_lists_everything_that_cannot_be_read() -> None:
    with pytest.raises(BadSetting) as caught:
        parse_strengths("0, much, 0..1, 0..1 step 0, 0..1 step -1, 1e9, nan, 0..1 step 0.001")
    for offender in ("'much'", "'0..1'", "'0..1 step 0'", "'0..1 step -1'", "'1e9'", "'nan'", "'0..1 step 0.001'"):
        assert offender in str(caught.value)


@pytest.mark.parametrize("text", ["", " , "])
def test_no_strength_says_what_was_expected(text: str) -> None:
    with pytest.raises(BadSetting, match="Expected"):
        parse_strengths(text)


def test_cells_go_row_by_row() -> None:
    sweep = sweep_of(Axis("a", (0.0, 1.0, 2.0)), Axis("b", (5.0, 6.0)))
    assert (sweep.shape, sweep.cells) == ((2, 3), 6)
    assert list(zip(sweep.of_columns(), sweep.of_rows(), strict=True)) == [
        (0, 5), (1, 5), (2, 5),
        (0, 6), (1, 6), (2, 6),
    ]  # fmt: skip
    assert Sweep(Axis("a", (0.5, 1.0))).of_rows() == ()


def test_a_grid_of_too_many_cells_is_refused() -> None:
    with pytest.raises(BadSetting, match="17 x 16 strengths are 272 images"):
        sweep_of(Axis("a", (1.0,) * 17), Axis("b", (1.0,) * 16))
