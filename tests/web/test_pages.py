"""What the front end expects beside the scripts: a help page per node, and a preview per example workflow."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE_IDS = sorted(re.findall(r'node_id="(\w+)"', "".join(f.read_text("utf-8") for f in (ROOT / "nodes").rglob("*.py"))))
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
PREVIEW_BYTES = 150_000


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_a_node_has_a_help_page_that_names_its_inputs(node_id: str) -> None:
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
    source = next(text for f in (ROOT / "nodes").rglob("*.py") if f'"{node_id}"' in (text := f.read_text("utf-8")))
    shared = {"lora_file_input(": "lora_name", "on_unmatched_input(": "on_unmatched"}
    names = set(re.findall(r'(?:\w+\.Input|strength_input)\(\s*"(\w+)"', source))
    names |= {name for call, name in shared.items() if call in source}
    assert [name for name in sorted(names) if f"| {name}" not in page] == []


def test_every_help_page_belongs_to_a_node() -> None:
    assert sorted(page.stem for page in (ROOT / "web" / "docs").glob("*.md")) == NODE_IDS


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_preview_of_moderate_size(example: Path) -> None:
    assert 0 < example.with_suffix(".jpg").stat().st_size < PREVIEW_BYTES


LANGUAGES = sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json"))


def _names(language: str) -> dict[str, tuple[list[str], list[str]]]:
    nodes = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    return {node: (sorted(texts["inputs"]), sorted(texts["outputs"])) for node, texts in nodes.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_names_what_the_english_names_and_nothing_else(language: str) -> None:
    assert len(LANGUAGES) >= 3
    assert _names(language) == _names("en")
