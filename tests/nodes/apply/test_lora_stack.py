"""Stacks on the real host: rows of any pack, applied in one node, equal to a chain of single nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import LoraError, StackError
from lora_pack.lora_core.files.sidecar import write_sidecar
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.apply_stack import ApplyStack
from lora_pack.nodes.apply.lora_stack import LoraStackNode
from lora_pack.nodes.file_work.inspect_lora import InspectLora
from safetensors.torch import save_file
from torch import Tensor

Step = Callable[[Any], Tensor]


def test_a_stack_equals_a_chain_of_single_nodes(model: Any, run: Step, style: str) -> None:
    chained = ApplyLora.execute(ApplyLora.execute(model, style, 0.7, 0, "report").args[0], style, -0.3, 0, "report")
    stacked = ApplyStack.execute(model, [(style, 0.7, 0.0), (style, -0.3, 0.0)], "report")
    assert torch.equal(run(stacked.args[0]), run(chained.args[0]))


def test_an_empty_stack_leaves_the_model_and_says_so(model: Any, run: Step) -> None:
    patched, _, report = ApplyStack.execute(model, [], "report").args
    assert "nothing was applied" in report
    assert torch.equal(run(patched), run(model))


def test_block_weights_from_another_pack_are_noted(model: Any, style: str) -> None:
    output = ApplyStack.execute(model, [(style, 1.0, 1.0, "1,0,1")], "report")
    assert "block weights came with this row and were not applied" in output.args[2]


def test_one_bad_row_stops_the_stack_and_names_its_file(model: Any, style: str) -> None:
    with pytest.raises(LoraError, match="gone"):
        ApplyStack.execute(model, [(style, 1, 1), ("gone.safetensors", 1, 1)], "report")
    with pytest.raises(StackError):
        ApplyStack.execute(model, [(style, 1, 1), 5], "report")


def test_the_stack_node_joins_rows_and_emits_plain_tuples(style: str, loras_dir: Path) -> None:
    (loras_dir / "sub").mkdir()
    save_file({"a": torch.zeros(1)}, loras_dir / "sub" / "b.safetensors")
    before = [{"name": "other.safetensors", "strength": 0.1}]
    rows = "<lora:style:0.8:0.5>\n# <lora:style:9>\n<lora:b:-1>"
    stack = LoraStackNode.execute(rows, before).args[0]
    assert stack == [
        ("other.safetensors", 0.1, 0.1),
        ("style.safetensors", 0.8, 0.5),
        ("sub/b.safetensors", -1.0, -1.0),
    ]


@pytest.mark.parametrize("rows", ["<lora:gone:1>", "style 1", "<lora:style:x>"])
def test_rows_that_can_not_be_used_are_refused_before_the_run(style: str, rows: str) -> None:
    assert isinstance(LoraStackNode.validate_inputs(rows=rows), str)


def test_good_rows_and_switched_off_rows_pass(style: str) -> None:
    assert LoraStackNode.validate_inputs(rows="<lora:style:1>\n# <lora:gone:1>") is True
    assert LoraStackNode.validate_inputs(rows="") is True


def test_inspect_tells_of_a_file_with_and_without_a_model(model: Any, run: Step, style: str) -> None:
    before = run(model)
    alone, held = InspectLora.execute(style), InspectLora.execute(style, model)
    assert "all keys matched" in alone.args[0] and "all keys matched" in held.args[0]
    assert '"model_family": "SD1.5"' in held.args[1]
    assert torch.equal(run(model), before)


def test_inspect_shows_a_file_of_another_family_instead_of_stopping(model: Any, loras_dir: Path) -> None:
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    sdxl = {f"{layer}.lora_down.weight": torch.zeros(4, 2048), f"{layer}.lora_up.weight": torch.zeros(640, 4)}
    save_file(sdxl, loras_dir / "sdxl.safetensors")
    report = InspectLora.execute("sdxl.safetensors", model).args[0]
    assert "refused: made for SDXL" in report and "0 layers" in report and "Made for: SDXL" in report


def test_inspect_tells_what_the_file_says_of_itself(loras_dir: Path, adapter_tensors: dict[str, torch.Tensor]) -> None:
    said = {"modelspec.title": "Ink", "ss_tag_frequency": '{"1_inkstyle": {"inkstyle": 8}}'}
    save_file(adapter_tensors, loras_dir / "ink.safetensors", metadata=said)
    output = InspectLora.execute("ink.safetensors")
    assert "Title: Ink" in output.args[0] and "inkstyle (100%)" in output.args[0]
    assert '"text": "inkstyle"' in output.args[1]
    assert "Title: Ink" in output.ui["lora_loom_reports"][0]["about"]


def test_the_stack_gives_the_trigger_words_of_its_rows_each_once(loras_dir: Path) -> None:
    folders = {"ss_tag_frequency": '{"10_sks dog": {"sks dog": 3, "grass": 3}}'}
    save_file({"a": torch.zeros(1)}, loras_dir / "phrase.safetensors", {"modelspec.trigger_phrase": "ink wash"})
    save_file({"a": torch.zeros(1)}, loras_dir / "folder.safetensors", folders)
    save_file({"a": torch.zeros(1)}, loras_dir / "noted.safetensors", folders)
    write_sidecar(loras_dir / "noted.safetensors", "", ["my word", "ink wash"])
    rows = "<lora:phrase:1>\n<lora:folder:1>\n<lora:noted:1>\n# <lora:folder:1>"
    assert LoraStackNode.execute(rows, [("gone", 1, 1)]).args[1] == "ink wash, sks dog, my word"


def test_a_stack_runs_again_when_its_trigger_words_change(style: str, loras_dir: Path) -> None:
    before = LoraStackNode.fingerprint_inputs(rows="<lora:style:1>")
    assert LoraStackNode.fingerprint_inputs(rows="<lora:style:1>") == before
    write_sidecar(loras_dir / style, "", ["new"])
    assert LoraStackNode.fingerprint_inputs(rows="<lora:style:1>") != before
