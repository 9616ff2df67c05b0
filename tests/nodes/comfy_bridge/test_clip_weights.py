"""Nodes of the host that read or change a CLIP's weights find a LoRA in them, as its own loader puts it there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.sd
import folder_paths
import nodes
import pytest
import torch
from comfy_extras import nodes_attention_multiply, nodes_model_merging
from lora_pack.nodes.apply.apply_lora import ApplyLora
from safetensors.torch import load_file, save_file
from torch import Tensor

Loader = Callable[[Any, str, float], Any]
Demo = tuple[Any, Any, Any]
TEXT = "a red circle"
STRENGTH = 0.8
SAME = 1e-5


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    yield
    management.unload_all_models()


@pytest.fixture
def text_style(demo: Demo, loras_dir: Path) -> str:
    """A file for every attention projection of the demo's text encoder."""
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for name, weight in demo[1].cond_stage_model.state_dict().items():
        inner = name.removeprefix("clip_l.transformer.").removesuffix(".weight")
        if "self_attn" in name and name.endswith("_proj.weight"):
            layer = "lora_te_" + inner.replace(".", "_")
            tensors[f"{layer}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator) * 0.2
            tensors[f"{layer}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=generator) * 0.2
    assert tensors
    save_file(tensors, loras_dir / "text.safetensors")
    return "text.safetensors"


def _ours(demo: Demo, name: str, strength: float = STRENGTH) -> Any:
    return ApplyLora.execute(demo[0], name, 0.0, strength, "report", demo[1], mode="branch").args[1]


def _hosts(demo: Demo, name: str, strength: float = STRENGTH) -> Any:
    return nodes.LoraLoader().load_lora(demo[0], demo[1], name, 0.0, strength)[1]


def _said(clip: Any) -> Tensor:
    with torch.no_grad():
        return clip.encode_from_tokens(clip.tokenize(TEXT)).float().cpu()


def _second(demo: Demo) -> Any:
    """Another CLIP of the same kind: the same one, half as strong in one layer."""
    clip = demo[1].clone()
    key = next(k for k in clip.patcher.model.state_dict() if k.endswith("fc1.weight"))
    clip.add_patches({key: (None,)}, 0.0, 0.5)
    return clip


def _call(node: Any, function: str, *arguments: Any) -> Any:
    if hasattr(node, "define_schema"):
        return node.execute(*arguments).args[0]
    return getattr(node(), function)(*arguments)[0]


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "simple 0.5": lambda one, other: _call(nodes_model_merging.CLIPMergeSimple, "merge", one, other, 0.5),
    "simple 0": lambda one, other: _call(nodes_model_merging.CLIPMergeSimple, "merge", one, other, 0.0),
    "simple, the other way round": lambda one, other: _call(
        nodes_model_merging.CLIPMergeSimple, "merge", other, one, 0.3
    ),
    "half the difference, then added": lambda one, other: _call(
        nodes_model_merging.CLIPAdd, "merge", _call(nodes_model_merging.CLIPSubtract, "merge", one, other, 0.5), other
    ),
    "add": lambda one, other: _call(nodes_model_merging.CLIPAdd, "merge", one, other),
    "multiplied attention": lambda one, _: _call(
        nodes_attention_multiply.CLIPAttentionMultiply, "patch", one, 1.2, 0.9, 1.1, 0.8
    ),
    "last layer": lambda one, _: nodes.CLIPSetLastLayer().set_last_layer(one, -2)[0],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_clip_changes_the_lora_in_it(demo: Demo, text_style: str, change: str) -> None:
    base, second = _said(demo[1]), _second(demo)
    wanted = _said(CHANGES[change](_hosts(demo, text_style), second))
    is_discarded = change == "simple 0"  # the whole of the first CLIP is
    assert torch.allclose(wanted, _said(CHANGES[change](demo[1], second)), atol=1e-3) == is_discarded
    found = _said(CHANGES[change](_ours(demo, text_style), second))
    assert torch.allclose(found, wanted, atol=20 * SAME * max(1.0, float(wanted.abs().max())))
    assert torch.equal(_said(demo[1]), base)


def _files(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.stem}.{key}": tensor for key, tensor in load_file(file).items()}
        file.unlink()
    return found


SAVERS: dict[str, Callable[[Any, Any, Path], None]] = {
    "CLIPSave": lambda model, clip, _: nodes_model_merging.CLIPSave().save(clip, "saved"),
    "a checkpoint": lambda model, clip, folder: comfy.sd.save_checkpoint(
        str(folder / "saved.safetensors"), model, clip
    ),
}


@pytest.mark.parametrize("saver", SAVERS)
def test_a_saved_clip_has_the_lora(
    demo: Demo, text_style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saver: str
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(output))

    def saved(clip: Any) -> dict[str, Tensor]:
        SAVERS[saver](demo[0], clip, output)
        return _files(output)

    base, wanted = saved(demo[1]), saved(_hosts(demo, text_style))
    assert any(not torch.equal(wanted[key], tensor) for key, tensor in base.items())
    found = saved(_ours(demo, text_style))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.allclose(found[key].float(), tensor.float(), atol=SAME), key
    after = saved(demo[1])
    assert all(torch.equal(after[key], tensor) for key, tensor in base.items())
