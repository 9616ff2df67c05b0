"""The host frees memory while weaves of this and of earlier plans are loaded: nothing dies under its loop."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as management
import pytest
import torch
from lora_pack.lora_core.weave import BRANCH, WovenLayer
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import WEAVE
from torch import Tensor

from .test_training import _copied

Step = Callable[[Any], Tensor]
CPU = torch.device("cpu")


@pytest.fixture
def run(run: Step) -> Step:
    """As a sampler does it: what goes with the model is loaded with it."""

    def loaded(patcher: Any) -> Tensor:
        management.load_models_gpu([patcher, *patcher.get_nested_additional_models()])
        return run(patcher)

    return loaded


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    management.unload_all_models()
    yield
    management.unload_all_models()


def _apply(model: Any, *names: str, strength: float = 1.0) -> Any:
    for name in names:
        model = ApplyLora.execute(model, name, strength, strength, "error", mode=BRANCH).args[0]
    return model


def _whole(model: Any) -> None:
    """All of it is loaded."""


def _in_part(model: Any) -> None:
    """As a model that is larger than the card: the host has moved a third of it away."""
    model.partially_unload(CPU, model.model_size() // 3)


CHANGES: dict[str, Callable[[Any, str, str], list[Any]]] = {
    "one file": lambda model, style, other: [_apply(model, style)],
    "another file": lambda model, style, other: [_apply(model, style), _apply(model, other)],
    "a second node": lambda model, style, other: [_apply(model, style), _apply(model, style, other)],
    "a node less": lambda model, style, other: [_apply(model, style, other), _apply(model, style)],
    "switched off": lambda model, style, other: [_apply(model, style), model],
    "off and on": lambda model, style, other: [_apply(model, style), model.clone(), _apply(model, other)],
    "many plans": lambda model, style, other: [
        _apply(model, *names)
        for names in ([style], [other], [style, other], [other, style], [style, style], [other] * 3)
    ],
}


@pytest.mark.parametrize("held", [True, False], ids=["all patchers held", "the last patcher held"])
@pytest.mark.parametrize("loaded", [_whole, _in_part])
@pytest.mark.parametrize("change", CHANGES)
def test_unloading_all_models_leaves_a_host_that_runs(
    model: Any, run: Step, style: str, other: str, change: str, loaded: Callable[[Any], None], held: bool
) -> None:
    base = run(model)
    patchers = CHANGES[change](model, style, other)
    wanted = [run(patcher) for patcher in patchers]
    last = patchers[-1]
    if not held:
        del patchers
    loaded(last)
    management.unload_all_models()
    assert management.current_loaded_models == []
    assert torch.equal(run(last), wanted[-1])
    assert torch.equal(run(model), base)


@pytest.mark.parametrize("change", CHANGES)
def test_making_room_for_another_model_on_a_small_card_unloads_one_after_the_other(
    model: Any, run: Step, style: str, other: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run(model)
    patchers = CHANGES[change](model, style, other)
    wanted = [run(patcher) for patcher in patchers]
    last = patchers[-1]
    del patchers
    _in_part(last)
    free = 0

    def free_on_card(device: object = None, torch_free_too: bool = False) -> Any:
        nonlocal free
        free += 100_000  # bytes that each look finds freed
        return (free, free) if torch_free_too else free

    monkeypatch.setattr(management, "get_free_memory", free_on_card)
    for needed in (150_000, 1_000_000, 10**12):
        management.free_memory(needed, model.load_device)
        gc.collect()
    monkeypatch.undo()
    assert torch.equal(run(last), wanted[-1])
    assert torch.equal(run(model), base)


def test_a_model_that_is_gone_takes_nothing_from_under_the_hosts_loop(
    model: Any, run: Step, style: str, other: str
) -> None:
    copy = _copied(model)
    run(copy)
    patched = [_apply(copy, style), _apply(copy, other)]
    wanted = [run(patcher) for patcher in patched][-1]
    kept = _apply(model, style)
    run(kept)
    del copy, patched, wanted
    management.unload_all_models()
    gc.collect()
    assert torch.equal(run(kept), run(kept))


def test_matrices_and_files_of_dropped_plans_are_let_go_when_the_host_unloads(
    model: Any, run: Step, style: str, other: str
) -> None:
    found_before = {id(layer) for layer in _woven_layers()}
    run(_apply(model, style))
    run(_apply(model, other))
    management.unload_all_models()
    gc.collect()
    assert [layer for layer in _woven_layers() if id(layer) not in found_before] == []


def test_a_weave_that_the_next_node_lets_go_of_takes_no_opened_file_along(
    model: Any, run: Step, style: str, other: str
) -> None:
    copy = _copied(model)
    run(_apply(copy, other))
    del copy
    gc.collect()
    first = _apply(model, style)  # lets go of the weave of the model that is gone
    second = _apply(model, style)
    weaves = [patcher.get_additional_models_with_key(WEAVE)[0] for patcher in (first, second)]
    assert weaves[0] is weaves[1]


def _woven_layers() -> list[WovenLayer]:
    return [thing for thing in gc.get_objects() if type(thing) is WovenLayer]
