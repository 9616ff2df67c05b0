"""Texts of a shared workflow are read in linear time, and have a limit that is told."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from lora_pack.lora_core.adapters import scale_rules
from lora_pack.lora_core.adapters.scale_rules import Patterns
from lora_pack.lora_core.errors import FileDamaged, LoraError
from lora_pack.lora_core.files.metadata_value import Unreadable, read_value
from lora_pack.lora_core.weave import block_strengths, schedule, stack_rows, sweep
from lora_pack.lora_core.weave.block_strengths import parse_block_strengths
from lora_pack.lora_core.weave.schedule import parse_schedule
from lora_pack.lora_core.weave.stack_rows import parse_rows, parse_stack
from lora_pack.lora_core.weave.sweep import parse_strengths

PARSERS: dict[str, tuple[Callable[[str], Any], int]] = {
    "schedule": (parse_schedule, schedule.TEXT_AT_MOST),
    "blocks": (parse_block_strengths, block_strengths.TEXT_AT_MOST),
    "sweep": (parse_strengths, sweep.TEXT_AT_MOST),
    "rows": (parse_rows, stack_rows.TEXT_AT_MOST),
}
UNITS = ("1", "1.", ".", " ", ":", "..", "1..1 step 1 ", "<lora:", '<lora:"', '"', '""', "a=", "*", "=", "<lora:a:1>")


@pytest.mark.parametrize("name", PARSERS)
def test_a_text_beyond_the_limit_is_refused_in_one_line(name: str) -> None:
    parse, limit = PARSERS[name]
    with pytest.raises(LoraError, match=f"at most {limit} characters") as caught:
        parse("1" * (limit + 1))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("unit", UNITS)
def test_any_text_up_to_the_limit_is_read_or_refused_in_words(name: str, unit: str) -> None:
    """A quadratic expression would keep this test for minutes."""
    parse, limit = PARSERS[name]
    text = (unit * (limit // len(unit) + 1))[: limit - 1] + "x"
    try:
        parse(text)
    except LoraError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("module", [schedule, stack_rows, sweep, block_strengths])
def test_no_expression_repeats_what_repeats(module: Any) -> None:
    """Of two repeats in a row that can take the same characters, each way to share these is tried: quadratic."""
    patterns = [value.pattern for value in vars(module).values() if isinstance(value, re.Pattern)]
    assert not [pattern for pattern in patterns if re.search(r"\\d\+\\?\.\?\\d\*|\\S\+\??\\s\*", pattern)]


def test_rows_have_a_limit() -> None:
    many = stack_rows.ROWS_AT_MOST + 1
    for read, given in (
        (parse_rows, "<lora:a:1>" * many),
        (parse_rows, "[" + ",".join(['["a", 1, 1]'] * many) + "]"),
        (parse_stack, [("a", 1.0, 1.0)] * many),
    ):
        with pytest.raises(LoraError, match=f"at most {stack_rows.ROWS_AT_MOST} rows were expected, found {many}"):
            read(given)  # type: ignore[operator]


def test_names_are_looked_up_and_the_first_of_the_table_counts() -> None:
    patterns = Patterns({r"to_q": 1.0, r".*attn2.*": 2.0, r"^whole\.to_k": 3.0, r"attn2\.to_v": 4.0})
    assert patterns.first("blocks.0.attn2.to_q") == 1.0
    assert patterns.first("blocks.0.attn2.to_v") == 2.0
    assert patterns.first("whole.to_k") == 3.0 and patterns.first("blocks.whole.to_k") is None
    assert patterns.first("blocks.0.no_to_q") is None


def test_ten_thousand_names_are_no_work() -> None:
    patterns = Patterns({f"blocks\\.{n}\\.to_q": float(n) for n in range(10_000)})
    assert patterns.first("model.blocks.9999.to_q") == 9999.0
    assert patterns._steps == 0  # nothing was fitted


def test_patterns_that_would_take_for_ever_are_refused() -> None:
    patterns = Patterns({f".*{'a' * n}.*b": 1.0 for n in range(1, 33)})
    with pytest.raises(FileDamaged, match="too long to fit"):
        for number in range(10_000):
            patterns.first(f"{'a' * 250}{number}")
    assert patterns._steps <= scale_rules.STEPS_AT_MOST * 2


@pytest.mark.parametrize("text", ["(" * 5_000 + ")" * 5_000, "-" * 9_000 + "1", "1+" * 4_000 + "1", "[" * 9_000])
def test_deep_texts_of_metadata_are_refused_before_they_are_taken_apart(text: str) -> None:
    with pytest.raises(Unreadable):
        read_value(text)


def test_options_as_trainers_wrote_them_are_read() -> None:
    text = "{'conv_dim': 4, 'lr': 1e-05, 'x': -0.5, 'flag': None, 'note': 'a--b (c)', 'all': [(1, 2)]}"
    assert read_value(text) == {
        "conv_dim": 4, "lr": 1e-05, "x": -0.5, "flag": None, "note": "a--b (c)", "all": [(1, 2)],
    }  # fmt: skip
