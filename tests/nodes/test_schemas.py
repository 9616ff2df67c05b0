"""What the host is told about the nodes: ids, tooltips, and that old and new hosts take the schema."""

import json
import re
from pathlib import Path

import pytest
from comfy_api.latest import io
from lora_pack.devtools.locale_texts import ENGLISH, languages, read, stale, texts_of
from lora_pack.nodes import NODES

IDS = [
    "LoraLoomApply",
    "LoraLoomStack",
    "LoraLoomApplyStack",
    "LoraLoomInspect",
    "LoraLoomConvert",
    "LoraLoomDatasetFolder",
    "LoraLoomDataset",
    "LoraLoomTrain",
    "LoraLoomTrainSettings",
    "LoraLoomLoad",
    "LoraLoomSave",
    "LoraLoomMerge",
    "LoraLoomResize",
    "LoraLoomExtract",
    "LoraLoomBake",
    "LoraLoomSimilarity",
    "LoraLoomPlot",
    "LoraLoomSchedule",
    "LoraLoomBlockStrengths",
    "LoraLoomSweep",
    "LoraLoomSweepGrid",
]


def test_node_ids_never_change() -> None:
    assert [node.GET_SCHEMA().node_id for node in NODES] == IDS


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_every_input_and_output_says_what_it_is(node: type[io.ComfyNode]) -> None:
    schema = node.GET_SCHEMA()
    assert schema.description and schema.display_name and schema.category == "LoRA Loom"
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_the_help_page_names_every_input_and_output(node: type[io.ComfyNode]) -> None:
    schema = node.GET_SCHEMA()
    page = (Path(__file__).parents[2] / "web" / "docs" / f"{schema.node_id}.md").read_text("utf-8")
    named = [entry.id for entry in schema.inputs] + [entry.display_name or entry.id for entry in schema.outputs]
    assert [name for name in named if f"| {name}" not in page] == []


DRAWN_BY_THE_PAGE = {"rows", "points"}  # widgets of the pack's own, which explain themselves
LOCALES = sorted((Path(__file__).parents[2] / "locales").glob("*/nodeDefs.json"))


@pytest.mark.parametrize("file", LOCALES, ids=lambda file: file.parent.name)
def test_a_language_has_every_node_with_all_inputs_and_outputs_and_no_others(file: Path) -> None:
    texts = json.loads(file.read_text("utf-8"))
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}
    assert sorted(texts) == sorted(schemas)
    for name, schema in schemas.items():
        named = texts[name]
        assert sorted(named["inputs"]) == sorted(entry.id for entry in schema.inputs)
        assert list(named["outputs"]) == [str(number) for number in range(len(schema.outputs))]
        entries = [*named["inputs"].values(), *named["outputs"].values()]
        assert named["display_name"] and named["description"] and all(entry["name"] for entry in entries)
        unexplained = {key for key, entry in named["inputs"].items() if not entry.get("tooltip")}
        assert unexplained <= DRAWN_BY_THE_PAGE


ENGLISH_NOW = texts_of(node.GET_SCHEMA() for node in NODES)


def test_the_english_texts_are_those_of_the_schemas() -> None:
    assert read(ENGLISH) == ENGLISH_NOW, "run `python -m devtools.locales`"


@pytest.mark.parametrize("language", [language for language in languages() if language != ENGLISH])
def test_a_translation_says_what_the_english_says_now(language: str) -> None:
    assert stale(language, ENGLISH_NOW) == [], (
        f"translate these, then run `python -m devtools.locales --agreed {language}`"
    )


@pytest.mark.parametrize("node", NODES, ids=IDS)
def test_numbers_tell_their_unit_and_range(node: type[io.ComfyNode]) -> None:
    for entry in node.GET_SCHEMA().inputs:
        if isinstance(entry, io.Float.Input):
            assert re.search("factor without unit from -100 to 100|no unit|Share of|0 to 1|MiB", entry.tooltip or "")
