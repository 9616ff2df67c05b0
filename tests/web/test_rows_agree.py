"""The row editor reads the line syntax as the host does: the cases that its own tests use hold for parse_rows too."""

import json
from pathlib import Path
from typing import Any

import pytest
from lora_pack.lora_core.errors import StackError
from lora_pack.lora_core.weave.stack_rows import parse_rows
from lora_pack.lora_core.weave.strength_limit import STRENGTH_LIMIT

CASES = json.loads((Path(__file__).parent / "rows_cases.json").read_text(encoding="utf-8"))
STATE = (Path(__file__).parents[2] / "web" / "stack_rows_state.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["title"])
def test_the_host_reads_what_the_editor_shows(case: dict[str, Any]) -> None:
    if case["host"] == "refused":
        with pytest.raises(StackError):
            parse_rows(case["text"])
    else:
        rows = [[row.on, row.name, row.strength_model, row.strength_clip] for row in parse_rows(case["text"])]
        assert rows == case["host"]


def test_both_have_the_same_limit_for_strengths() -> None:
    assert f"STRENGTH_LIMIT = {STRENGTH_LIMIT:g};" in STATE


@pytest.mark.parametrize("case", [case for case in CASES if "more" in case], ids=lambda case: str(case["title"]))
def test_block_strengths_and_schedule_of_a_row_are_read_by_the_host(case: dict[str, Any]) -> None:
    rows = parse_rows(case["text"])
    found = [[row.blocks and row.blocks.text(), row.schedule and row.schedule.text()] for row in rows]
    assert found == case["more"]
