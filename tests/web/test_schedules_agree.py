"""The schedule editor reads the points as the host does: the cases of its own tests hold for parse_schedule too."""

import json
from pathlib import Path
from typing import Any

import pytest
from lora_pack.lora_core.errors import BadSchedule
from lora_pack.lora_core.weave import parse_schedule
from lora_pack.lora_core.weave.schedule import POINTS_LIMIT
from lora_pack.lora_core.weave.strength_limit import STRENGTH_LIMIT

CASES = json.loads((Path(__file__).parent / "schedule_cases.json").read_text(encoding="utf-8"))
STATE = (Path(__file__).parents[2] / "web" / "schedule_state.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["title"])
def test_the_host_reads_what_the_editor_shows(case: dict[str, Any]) -> None:
    if not case["problems"]:
        assert [list(point) for point in parse_schedule(case["text"]).points] == case["points"]
        return
    with pytest.raises(BadSchedule) as caught:
        parse_schedule(case["text"])
    assert len(caught.value.reasons) == len(case["problems"])
    assert all(f"'{part}'" in reason for part, reason in zip(case["problems"], caught.value.reasons, strict=True))


def test_both_have_the_same_limits() -> None:
    assert f"FACTOR_LIMIT = {STRENGTH_LIMIT:g};" in STATE
    assert f"POINTS_LIMIT = {POINTS_LIMIT};" in STATE
