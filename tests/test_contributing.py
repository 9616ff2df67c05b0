"""Every place that CONTRIBUTING names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`([\w/]+\.(?:py|js)):(\w+)`", TEXT)))
FILES = sorted(set(re.findall(r"`((?:lora_core|nodes|web|tests|benchmarks|devtools|demo)/[\w/.]+)`", TEXT)))


def test_ways_are_told_place_by_place() -> None:
    assert len(PLACES) >= 30


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_a_named_function_or_class_is_in_its_file(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"(?:def|class|function) {name}\b", text), f"{file} has no {name}"


@pytest.mark.parametrize("path", FILES)
def test_a_named_file_or_folder_is_there(path: str) -> None:
    assert (ROOT / path).exists() or "NAME" in path
