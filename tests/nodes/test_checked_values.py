"""Values that an older host lets through are refused by every node in one line, and never taken for something else."""

from typing import Any

import pytest
from comfy_api.latest import io
from lora_pack.lora_core.errors import BadValues
from lora_pack.nodes import NODES
from lora_pack.nodes.apply.apply_lora import ApplyLora

NO_CHOICE = "No such choice"
WRONG: dict[type, list[Any]] = {
    io.Combo.Input: [None, 3, True, ["auto"]],
    io.String.Input: [None, 3],
    io.Boolean.Input: ["yes", 1],
    io.Int.Input: ["3", True, 1.5],
    io.Float.Input: ["0.8", True],
}


def _given(node: type[io.ComfyNode]) -> dict[str, Any]:
    """Something right for each input: its default, or a made-up one."""
    made: dict[type, Any] = {io.Combo.Input: "x", io.String.Input: "x", io.Boolean.Input: True, io.Int.Input: 1}
    schema = node.define_schema()
    given = {one.id: getattr(one, "default", None) for one in schema.inputs}
    for one in schema.inputs:
        if given[one.id] is None and not one.optional:
            given[one.id] = made.get(type(one), 1.0 if type(one) is io.Float.Input else object())
    return {name: [value] if schema.is_input_list else value for name, value in given.items()}


CASES = [
    (node, one.id, type(one), value)
    for node in NODES
    for one in node.define_schema().inputs
    for value in [*WRONG.get(type(one), []), *([NO_CHOICE] if getattr(one, "default", None) else [])]
    if value != NO_CHOICE or (type(one) is io.Combo.Input and not one.id.startswith("lora_name"))
    if type(one) in WRONG and not (value is None and one.optional)
]


@pytest.mark.parametrize(
    ("node", "name", "kind", "value"), CASES, ids=[f"{c[0].__name__}-{c[1]}-{c[3]!r}" for c in CASES]
)
def test_a_value_of_a_wrong_kind_is_refused_by_its_name(
    node: type[io.ComfyNode], name: str, kind: type, value: Any
) -> None:
    given = _given(node)
    given[name] = [value] if node.define_schema().is_input_list else value
    with pytest.raises(BadValues, match=name) as caught:
        node.execute(**given)
    assert "\n" not in str(caught.value) and repr(value) in str(caught.value)


def test_every_wrong_value_is_listed_and_a_choice_is_told_by_its_choices() -> None:
    with pytest.raises(BadValues) as caught:
        ApplyLora.execute(object(), None, 1.0, "1", "Error", mode="Merge")
    assert str(caught.value) == (
        "Apply LoRA: lora_name should be str, but is None; strength_clip should be int or float, but is '1'; "
        "on_unmatched should be one of report, error, but is 'Error'; "
        "mode should be one of auto, branch, merge, but is 'Merge'."
    )
