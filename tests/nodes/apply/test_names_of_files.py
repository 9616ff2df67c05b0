"""One file by one name, in a row of text, in a row of another pack and in a node's own list: whatever a disk takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import LoraError
from lora_pack.lora_core.errors import FileMissing
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.apply_stack import ApplyStack
from lora_pack.nodes.apply.lora_stack import LoraStackNode
from lora_pack.nodes.host_files.lora_folders import find_lora
from torch import Tensor

ENDING = ".safetensors"
ODD_NAMES = (
    " spaces at its ends ", "a : colon", "C:drive", "less < and > more", 'of "a" quote', '"quoted"', "# a remark",
    "back\\slash", "name,with=signs;", "schedule=0:1", "日本", "a" * (250 - len(ENDING)), "None", "dots..",
)  # fmt: skip


def _row(name: str, strength: float) -> str:
    doubled = name.replace('"', '""')
    return f'<lora:"{doubled}":{strength}>'


@pytest.mark.skipif(os.name == "nt", reason="Windows takes none of most of these names")
@pytest.mark.parametrize("stem", ODD_NAMES)
def test_a_file_of_any_name_is_applied_alike_by_a_node_a_row_and_a_stack_of_others(
    model: Any, run: Callable[[Any], Tensor], style: str, loras_dir: Path, stem: str
) -> None:
    name = stem + ENDING
    (loras_dir / name).write_bytes((loras_dir / style).read_bytes())
    expected = run(ApplyLora.execute(model, style, 0.7, 0, "report").args[0])
    assert torch.equal(run(ApplyLora.execute(model, name, 0.7, 0, "report").args[0]), expected)
    assert torch.equal(run(ApplyStack.execute(model, [(name, 0.7, 0.7)], "report").args[0]), expected)
    row = _row(name, 0.7)
    assert LoraStackNode.validate_inputs(rows=row) is True
    stack = LoraStackNode.execute(row).args[0]
    assert stack == [(name, 0.7, 0.7)]
    assert LoraStackNode.fingerprint_inputs(rows=row)


NO_NAMES = ("a" * 250, "b/" * 400 + "c", "é" * 5000, " ", "C:other", "../x", "/etc/x", "a\0b", ".")


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_no_file_has_is_one_line_of_error_everywhere(model: Any, style: str, name: str) -> None:
    with pytest.raises(FileMissing) as found:
        find_lora(name)
    assert "\n" not in str(found.value) and len(str(found.value)) < 500
    for run in (
        lambda: ApplyLora.execute(model, name, 1, 1, "report"),
        lambda: ApplyStack.execute(model, [(name, 1, 1)], "report"),
        lambda: LoraStackNode.execute(_row(name, 1)),
    ):
        with pytest.raises(LoraError) as refused:
            run()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_of_two_names_that_differ_by_the_kind_of_slash_each_is_its_own(loras_dir: Path, style: str) -> None:
    if os.name == "nt":
        pytest.skip("both slashes are one there")
    (loras_dir / "a").mkdir()
    for name in ("a/b.safetensors", "a\\b.safetensors"):
        (loras_dir / name).write_bytes((loras_dir / style).read_bytes())
        assert find_lora(name) == loras_dir / name
