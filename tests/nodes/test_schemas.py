"""What the host is told about the nodes: ids, tooltips, and that old and new hosts take the schema."""

import re
from pathlib import Path

import pytest
from comfy_api.latest import io
from lora_pack.nodes import NODES

PAGES = Path(__file__).parents[2] / "web" / "docs"

IDS = [
    "LoraLoomApply", "LoraLoomStack", "LoraLoomApplyStack", "LoraLoomInspect", "LoraLoomConvert", "LoraLoomLoad",
    "LoraLoomSave", "LoraLoomMerge", "LoraLoomResize", "LoraLoomExtract", "LoraLoomBake", "LoraLoomSimilarity",
    "LoraLoomPlot",
]  # fmt: skip


def test_node_ids_never_change() -> None:
    assert [node.GET_SCHEMA().node_id for node in NODES] == IDS


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_every_input_and_output_says_what_it_is(node: type[io.ComfyNode]) -> None:
    schema = node.GET_SCHEMA()
    assert schema.description and schema.display_name and schema.category == "LoRA Loom"
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_numbers_tell_their_unit_and_range(node: type[io.ComfyNode]) -> None:
    for entry in node.GET_SCHEMA().inputs:
        if isinstance(entry, io.Float.Input | io.Int.Input):
            assert f"from {entry.min:g} to {entry.max:g}" in entry.tooltip or f"to {entry.max}" in entry.tooltip
        if "strength" in entry.id:
            assert "factor without unit" in entry.tooltip


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_the_help_page_names_every_input(node: type[io.ComfyNode]) -> None:
    page = (PAGES / f"{node.GET_SCHEMA().node_id}.md").read_text("utf-8")
    named = {
        name.strip(" `") for row in re.findall(r"^\| ([^|]+)\|", page, re.MULTILINE) for name in re.split(r",|\(", row)
    }
    assert [entry.id for entry in node.GET_SCHEMA().inputs if entry.id not in named] == []
