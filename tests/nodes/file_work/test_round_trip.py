"""What a node made and Save LoRA wrote is applied as what the node gave on, for every method and dialect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import LoraFile
from lora_pack.lora_core.file_work.merging.methods import METHODS
from lora_pack.lora_core.names.key_dialects.spelling import SPELLINGS
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.file_work.extract_lora import ExtractLora
from lora_pack.nodes.file_work.load_lora_file import LoadLoraFile
from lora_pack.nodes.file_work.merge_lora import MergeLora
from lora_pack.nodes.file_work.resize_lora import ResizeLora
from lora_pack.nodes.file_work.save_lora import SaveLora
from torch import Tensor

Step = Callable[[Any], Tensor]
ORDER = {
    "rank": 0, "energy": 0.0, "max_error": 0.0, "size": 0.0, "density": 0.6, "spread": 0.1, "seed": 3, "layers": "",
}  # fmt: skip
REACHED = 1e-2  # outputs differ at least by that where a LoRA does something


def opened(name: str) -> LoraFile:
    return LoadLoraFile.execute(name).args[0]


def merged(model: Any, style: str, other: str, method: str = "concat", **order: Any) -> LoraFile:
    slots = {"lora_1": opened(style), "strength_1": 0.8, "lora_2": opened(other), "strength_2": -0.5}
    return MergeLora.execute(method, **{**ORDER, **order}, model=model, **slots).args[0]


def applied(model: Any, run: Step, lora: LoraFile | str) -> Tensor:
    """The model's output with a LORA, or with a file."""
    given = {} if isinstance(lora, str) else {"lora": lora}
    name = lora if isinstance(lora, str) else ""
    return run(ApplyLora.execute(model, name, 1.0, 1.0, "error", **given).args[0])


def assert_saved_is_the_same(model: Any, run: Step, lora: LoraFile) -> None:
    """In every dialect, by output, to the bit."""
    held = applied(model, run, lora)
    assert (held - run(model)).abs().max() > REACHED
    for dialect in ("as it is", *SPELLINGS):
        name = SaveLora.execute(lora, f"saved_{dialect}", dialect, model=model).args[0]
        assert torch.equal(applied(model, run, name), held), dialect


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_saved_is_the_merge(model: Any, run: Step, style: str, other: str, method: str) -> None:
    assert_saved_is_the_same(model, run, merged(model, style, other, method))


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_an_exact_merge_is_one_lora_after_the_other(model: Any, run: Step, style: str, other: str, method: str) -> None:
    both = ApplyLora.execute(model, style, 0.8, 0.8, "error").args[0]
    both = ApplyLora.execute(both, other, -0.5, -0.5, "error").args[0]
    assert torch.allclose(applied(model, run, merged(model, style, other, method)), run(both), atol=1e-5)


def test_a_resized_lora_saved_is_the_resized_one(model: Any, run: Step, style: str) -> None:
    assert_saved_is_the_same(model, run, ResizeLora.execute(style, 3, 0.0, 0.0, 0.0, model=model).args[0])


def test_an_extracted_lora_saved_is_the_extracted_one(
    model: Any, run: Step, loras_dir: Path, checkpoints: Path
) -> None:
    names = "diffusion_models/base.safetensors", "diffusion_models/tuned.safetensors"
    made = ExtractLora.execute(*names, 8, 0.0, 0.0, True, "kohya", "fp32").args[0]
    assert_saved_is_the_same(model, run, made)
