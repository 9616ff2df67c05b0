"""Every form of LORA_STACK in use is read, and bad rows are all told at once."""

import pytest
from lora_pack.lora_core import StackError
from lora_pack.lora_core.weave.stack_rows import as_tuples, parse_rows, parse_stack

THREE = ("a.safetensors", 0.8, 0.5)


@pytest.mark.parametrize(
    "row",
    [
        ("a.safetensors", 0.8, 0.5),
        ["a.safetensors", 0.8, 0.5],
        ("a.safetensors", 0.8, 0.5, None),
        ("a.safetensors", "0.8", "0.5", "1,0,1"),
        {"name": "a.safetensors", "strength": 0.8, "strength_clip": 0.5},
        {"lora_name": "a.safetensors", "model_strength": 0.8, "clip_strength": 0.5},
        {"on": True, "lora": "a.safetensors", "strength": 0.8, "strengthTwo": 0.5},
    ],
)
def test_every_form_of_a_row_becomes_the_same_tuple(row: object) -> None:
    assert as_tuples(parse_stack([row])) == [THREE]


def test_block_weights_of_a_fourth_place_are_noted_as_not_applied() -> None:
    (row,) = parse_stack([("a.safetensors", 1.0, 1.0, "1,0,1")])
    assert list(row.notes) == ["block weights came with this row and were not applied"]


@pytest.mark.parametrize("name", ["None", "", "none"])
def test_empty_rows_of_other_packs_are_left_out(name: str) -> None:
    assert parse_stack([(name, 1.0, 1.0), THREE]) == parse_stack([THREE])


def test_a_switched_off_row_is_left_out() -> None:
    assert parse_stack([{"name": "a", "on": False}]) == []


def test_a_row_with_one_strength_uses_it_for_both() -> None:
    assert as_tuples(parse_stack([("a", 0.3)])) == [("a", 0.3, 0.3)]


def test_all_bad_rows_are_told_in_one_error() -> None:
    with pytest.raises(StackError) as caught:
        parse_stack([("a", 1, 1), 5, ("b", "strong", 1), {"strength": 1}, ("c", float("nan"), 1), ("d", 1e9, 1)])
    assert [reason.split(":")[0] for reason in caught.value.reasons] == ["row 2", "row 3", "row 4", "row 5", "row 6"]


@pytest.mark.parametrize("stack", [None, 5, "a", {"a": 1}])
def test_what_is_no_list_is_no_stack(stack: object) -> None:
    with pytest.raises(StackError):
        parse_stack(stack)


def test_lines_of_text_are_rows_and_a_hash_switches_one_off() -> None:
    rows = parse_rows("<lora:a b:0.8>\n# <lora:c:1>\n\n<lora:d:-0.5:0.25> <lora:e>\n# a remark")
    assert [(row.name, row.strength_model, row.strength_clip, row.on) for row in rows] == [
        ("a b", 0.8, 0.8, True),
        ("c", 1.0, 1.0, False),
        ("d", -0.5, 0.25, True),
        ("e", 1.0, 1.0, True),
    ]


def test_json_is_taken_too() -> None:
    (row,) = parse_rows('[{"on": false, "name": "a", "strength": 0.5, "strength_clip": null}]')
    assert (row.name, row.strength_model, row.strength_clip, row.on) == ("a", 0.5, 0.5, False)


def test_a_json_row_has_blocks_and_schedule_as_a_line_has() -> None:
    (line,) = parse_rows("<lora:a:0.8:blocks=in4=0.5:schedule=0:0,0.3:1>")
    (table,) = parse_rows('[{"name": "a", "strength": 0.8, "blocks": "in4=0.5", "schedule": "0:0,0.3:1"}]')
    assert table == line
    assert line.blocks is not None and line.schedule is not None


def test_blocks_of_a_json_row_that_are_no_text_are_told() -> None:
    with pytest.raises(StackError, match=r"row 1: blocks should be a text, found \[1, 0\]"):
        parse_rows('[{"name": "a", "blocks": [1, 0]}]')


@pytest.mark.parametrize("text", ["a.safetensors 0.8", "<lora:a:x>", "[{", "[5]", "<lora:a:inf>", "<lora:a:>"])
def test_text_that_can_not_be_read_is_told(text: str) -> None:
    with pytest.raises(StackError):
        parse_rows(text)


def test_no_text_is_an_empty_stack() -> None:
    assert parse_rows(" \n ") == []
