"""Nodes of the host that read or change a model's weights find a LoRA in them, as its own loader puts it there."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import nodes
import pytest
import torch
from comfy_extras import nodes_attention_multiply, nodes_lora_extract, nodes_model_merging
from lora_pack.lora_core.errors import NotInWeights
from lora_pack.lora_core.weave.schedule import parse_schedule
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import PLAN
from safetensors.torch import load_file
from torch import Tensor

from ..conftest import patcher_of

Step = Callable[[Any], Tensor]
Loader = Callable[[Any, str, float], Any]
STRENGTH = 0.8
SAME = 1e-5  # of an output of order 1, or of a weight


def _ours(model: Any, name: str, strength: float = STRENGTH) -> Any:
    return ApplyLora.execute(model, name, strength, strength, "error", mode="branch").args[0]


def _hosts(model: Any, name: str, strength: float = STRENGTH) -> Any:
    return nodes.LoraLoader().load_lora(model, None, name, strength, 0.0)[0]


def _call(node: Any, function: str, *arguments: Any) -> Any:
    """A node of either form of the host's nodes."""
    if hasattr(node, "execute") and hasattr(node, "define_schema"):
        return node.execute(*arguments).args[0]
    return getattr(node(), function)(*arguments)[0]


@pytest.fixture(scope="module")
def second(model: Any) -> Any:
    """Another model of the same kind, with weights of its own."""
    import copy

    config = model.model.model_config
    inner = copy.deepcopy(model.model, {id(config): config})
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in inner.diffusion_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return patcher_of(inner)


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    yield
    management.unload_all_models()


def _simple(ratio: float) -> Callable[[Any, Any], Any]:
    return lambda one, other: _call(nodes_model_merging.ModelMergeSimple, "merge", one, other, ratio)


def _blocks(one: Any, other: Any) -> Any:
    node = nodes_model_merging.ModelMergeBlocks
    return node().merge(one, other, **{"input_blocks.": 0.0, "middle_block.": 1.0, "output_blocks.": 0.3})[0]


def _subtracted(multiplier: float) -> Callable[[Any, Any], Any]:
    return lambda one, other: _call(nodes_model_merging.ModelSubtract, "merge", one, other, multiplier)


def _added(one: Any, other: Any) -> Any:
    return _call(nodes_model_merging.ModelAdd, "merge", one, other)


MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "simple 0.5": _simple(0.5),
    "simple 0": _simple(0.0),
    "simple 1": _simple(1.0),
    "blocks": _blocks,
    "subtract 1": _subtracted(1.0),
    "subtract 0.5": _subtracted(0.5),
    "add": _added,
    "subtract, then add": lambda one, other: _added(_subtracted(1.0)(one, other), other),
}


@pytest.mark.parametrize("which", ["the first", "the second", "both"])
@pytest.mark.parametrize("merge", MERGES)
def test_a_merge_of_models_merges_the_lora_of_each(
    model: Any, second: Any, run: Step, style: str, merge: str, which: str
) -> None:
    base = run(model)

    def made(apply: Loader) -> Tensor:
        one = apply(model, style, STRENGTH) if which != "the second" else model
        other = apply(second, style, -0.5) if which != "the first" else second
        return run(MERGES[merge](one, other))

    wanted = made(_hosts)
    scale = float(wanted.abs().max())
    assert torch.allclose(made(_ours), wanted, atol=20 * SAME * scale)
    assert torch.equal(run(model), base)


def test_a_merge_takes_no_weight_away_from_the_model_that_it_was_made_of(
    model: Any, second: Any, run: Step, style: str
) -> None:
    patched = _ours(model, style)
    before = run(patched)
    for merge in MERGES.values():
        run(merge(patched, second))
        run(merge(second, patched))
    assert not patched.patches and patched.get_attachment(PLAN).woven
    assert torch.equal(run(patched), before)


def _saved(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.rglob("*.safetensors")
    found = load_file(file)
    file.unlink()
    return found


def _same_files(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.allclose(found[key].float(), tensor.float(), atol=SAME), key


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.mark.parametrize("is_loaded", [False, True], ids=["not loaded", "loaded"])
def test_a_saved_model_has_the_lora(model: Any, run: Step, style: str, output: Path, is_loaded: bool) -> None:
    def saved(patcher: Any) -> dict[str, Tensor]:
        if is_loaded:
            run(patcher)
        nodes_model_merging.ModelSave().save(patcher, "saved")
        return _saved(output)

    base = saved(model)
    wanted = saved(_hosts(model, style))
    assert any(not torch.equal(wanted[key], tensor) for key, tensor in base.items())
    patched = _ours(model, style)
    before = run(patched)
    _same_files(saved(patched), wanted)
    assert torch.equal(run(patched), before)
    _same_files(saved(model), base)


def test_an_extracted_lora_is_that_of_the_difference(model: Any, style: str, output: Path) -> None:
    def extracted(apply: Loader) -> dict[str, Tensor]:
        difference = _subtracted(1.0)(apply(model, style, STRENGTH), model)
        node = nodes_lora_extract.LoraSave
        arguments = {"rank": 4, "lora_type": "full_diff", "bias_diff": False, "model_diff": difference}
        if hasattr(node, "execute"):
            node.execute(filename_prefix="extracted", **arguments)
        else:
            node().save(filename_prefix="extracted", **arguments)
        return _saved(output)

    wanted, found = extracted(_hosts), extracted(_ours)
    assert found.keys() == wanted.keys()
    largest = max(float(tensor.float().abs().max()) for tensor in wanted.values())
    assert largest > 0.01
    for key, tensor in wanted.items():
        assert torch.allclose(found[key].float(), tensor.float(), atol=2e-3 * largest), key


ATTENTION: dict[str, Callable[[Any], Any]] = {
    "self": lambda m: _call(nodes_attention_multiply.UNetSelfAttentionMultiply, "patch", m, 1.2, 0.9, 1.1, 0.8),
    "cross": lambda m: _call(nodes_attention_multiply.UNetCrossAttentionMultiply, "patch", m, 1.2, 0.9, 1.1, 0.8),
}


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("order", ["before", "after"])
def test_multiplied_attention_multiplies_the_lora_as_the_host_does(
    model: Any, run: Step, style: str, kind: str, order: str
) -> None:
    def made(apply: Loader) -> Tensor:
        if order == "after":
            return run(ATTENTION[kind](apply(model, style, STRENGTH)))
        return run(apply(ATTENTION[kind](model), style, STRENGTH))

    wanted = made(_hosts)
    assert not torch.allclose(wanted, run(_hosts(model, style)), atol=1e-3)
    assert torch.allclose(made(_ours), wanted, atol=20 * SAME * float(wanted.abs().max()))


def test_whoever_asks_the_models_own_state_dict_during_sampling_gets_the_lora(
    model: Any, run: Step, style: str
) -> None:
    """As Control-LoRA does (comfy/controlnet.py), which makes its net of the model's weights."""
    raw = {key: tensor.clone() for key, tensor in model.model.diffusion_model.state_dict().items()}
    merged = _hosts(model, style)
    run(merged)
    wanted = {key: tensor.clone() for key, tensor in model.model.diffusion_model.state_dict().items()}
    patched = _ours(model, style)
    run(patched)
    found = model.model.diffusion_model.state_dict()
    assert list(found) == list(wanted)
    for key in wanted:
        assert torch.allclose(found[key], wanted[key], atol=SAME), key
    whole = model.model.state_dict()
    assert torch.allclose(whole[f"diffusion_model.{key}"], wanted[key], atol=SAME)
    assert torch.allclose(dict(found)[key], wanted[key], atol=SAME)
    run(model)
    assert "state_dict" not in model.model.__dict__ and "state_dict" not in model.model.diffusion_model.__dict__
    for key, tensor in model.model.diffusion_model.state_dict().items():
        assert torch.equal(tensor, raw[key]), key


def test_a_strength_that_moves_is_refused_by_whoever_reads_weights_and_by_nobody_else(
    model: Any, second: Any, run: Step, style: str, output: Path
) -> None:
    moving = ApplyLora.execute(model, style, 1.0, 1.0, "error", mode="auto", schedule=parse_schedule("0:1, 1:0")).args[
        0
    ]
    readers: list[Callable[[], Any]] = [
        lambda: _simple(0.5)(moving, second),
        lambda: _simple(0.5)(second, moving),
        lambda: _subtracted(0.5)(moving, second),
        lambda: ATTENTION["self"](moving),
        lambda: nodes_model_merging.ModelSave().save(moving, "saved"),
    ]
    for reader in readers:
        with pytest.raises(NotInWeights, match=f"{style}.*schedule") as caught:
            reader()
        assert "\n" not in str(caught.value)
    assert _hosts(moving, style).patches
    assert not list(output.rglob("*.safetensors"))


def test_a_patcher_that_nobody_holds_any_more_is_gone_at_once(model: Any, style: str) -> None:
    import gc
    import weakref

    patched = _ours(model, style)
    ends = [weakref.ref(patched), weakref.ref(patched.clone())]
    gc.disable()
    try:
        del patched
        assert [end() for end in ends] == [None, None]
    finally:
        gc.enable()


def _loaded(run: Step, patcher: Any) -> Tensor:
    """As a sampler does it: what goes with the model is loaded with it."""
    management.load_models_gpu([patcher, *patcher.get_nested_additional_models()])
    return run(patcher)


@pytest.mark.parametrize("merge", MERGES)
def test_a_merge_made_of_a_model_while_that_is_at_work_is_what_it_is_otherwise(
    model: Any, second: Any, run: Step, style: str, merge: str
) -> None:
    wanted = _loaded(run, MERGES[merge](_ours(model, style), second))
    management.unload_all_models()
    at_work = _ours(model, style)
    branch = _loaded(run, at_work)
    assert torch.equal(_loaded(run, MERGES[merge](at_work, second)), wanted)
    assert torch.equal(_loaded(run, at_work), branch)


CLONES: dict[str, Callable[[Any, str], Any]] = {
    "only cloned": lambda patcher, other: patcher.clone(),
    "the host's loader on it": _hosts,
    "ours on it": _ours,
    "a merge of it": lambda patcher, other: _simple(0.5)(patcher, patcher),
    "its weights are read": lambda patcher, other: dict(patcher.model_state_dict()),
}


@pytest.mark.parametrize("clone", CLONES)
def test_what_is_made_of_a_model_at_work_and_dropped_takes_nothing_from_it(
    model: Any, run: Step, style: str, other: str, clone: str
) -> None:
    base = _loaded(run, model)
    at_work = _ours(model, style)
    before = _loaded(run, at_work)
    made = CLONES[clone](at_work, other)
    assert torch.equal(_loaded(run, at_work), before)
    del made
    gc.collect()
    assert torch.equal(_loaded(run, at_work), before)
    assert torch.equal(_loaded(run, model), base)
