"""An error inside of each callback that the host calls: the host goes on, and the model is as it was to the bit."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as management
import pytest
import torch
from lora_pack.lora_core.weave import BRANCH, Schedule, Weave, WovenLayer
from lora_pack.lora_core.weave import injection as injections
from lora_pack.lora_core.weave.injection import Injection
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import applying, held_weaves, moving_strengths, plan_in_weights, woven_models
from torch import Tensor

from ..conftest import sampled

ALWAYS = Schedule(((0.0, 1.0), (1.0, 1.0)))

# What runs inside of a callback -> where it stands, and whether sampling hears of its error.
INSIDE: dict[str, tuple[Any, str, bool]] = {
    "injecting: the layers of the model are listed": (woven_models, "modules_of", True),
    "injecting: matrices are made": (Weave, "build", True),
    "injecting: strengths are set": (Weave, "set_strengths", True),
    "injecting: older matrices are let go": (woven_models, "_keep_matrices", True),
    "injecting: layers are put beside": (Injection, "attach", True),
    "injecting: half of the layers are put beside": (Injection, "_beside", True),
    "injecting: state dicts are told": (woven_models, "state_dicts_with_plan", True),
    "a layer is called": (WovenLayer, "forward", True),
    "the model is called: strengths are worked out": (moving_strengths, "strengths_at", True),
    "the model is called: the position of a step": (moving_strengths, "position_of", True),
    "ejecting: the class's forward is put back": (injections, "_restore", True),
    "unloading: what is kept of files is let go": (woven_models, "unloaded", False),
    "unloading: matrices are let go": (woven_models, "empty_unused", False),
    "unloading: matrices are moved": (Weave, "place", True),
    "unloading: a weave is emptied": (Weave, "empty", False),
}


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    management.unload_all_models()
    yield
    management.unload_all_models()


def _sample(patcher: Any) -> Tensor:
    return sampled(patcher, 1)


@pytest.mark.parametrize("title", list(INSIDE))
@pytest.mark.parametrize("moment", ["before it is loaded", "while it is loaded"])
def test_an_error_inside_of_a_callback_leaves_host_and_model_as_they_were(
    model: Any, style: str, other: str, monkeypatch: pytest.MonkeyPatch, title: str, moment: str
) -> None:
    owner, name, heard = INSIDE[title]
    base = _sample(model)
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    schedule = ALWAYS if owner is moving_strengths else None
    patched = ApplyLora.execute(model, style, 0.7, 0, "error", mode=BRANCH, schedule=schedule).args[0]
    ours = _sample(patched)
    assert not torch.equal(ours, base)
    if moment == "before it is loaded":
        management.unload_all_models()
    calls: list[str] = []

    def fails(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if name == "_beside" and len(calls) % 2:  # every other layer
            return own(*arguments, **options)
        raise RuntimeError(f"an error in {name}")

    with monkeypatch.context() as broken:
        own = getattr(owner, name)
        broken.setattr(owner, name, fails)
        try:
            second = ApplyLora.execute(model, other, 0.5, 0, "error", mode=BRANCH, schedule=schedule).args[0]
            _sample(patched)
            _sample(second)
            del second
        except RuntimeError as error:
            assert heard, title
            assert name in str(error)
        management.free_memory(1e30, torch.device("cpu"))
        management.unload_all_models()
        management.cleanup_models_gc()
        assert torch.equal(_sample(model), base) or heard
        management.unload_all_models()
    management.unload_all_models()
    assert calls, f"{title}: never called"
    assert torch.equal(_sample(model), base)
    after = model.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)
    assert torch.equal(_sample(patched), ours)
    management.unload_all_models()
    assert torch.equal(_sample(model), base)


READS: dict[str, Callable[[Any], object]] = {
    "get_key_patches": lambda patcher: patcher.get_key_patches(),
    "model_state_dict": lambda patcher: dict(patcher.model_state_dict().items()),
    "patch_weight_to_device": lambda patcher: patcher.patch_weight_to_device(
        next(key for key in patcher.get_key_patches() if key.endswith("to_q.weight")), return_weight=True
    ),
    "state_dict of the model": lambda patcher: dict(patcher.model.state_dict().items()),
}


@pytest.mark.parametrize("title", list(READS))
def test_an_error_while_weights_are_read_with_the_plan_changes_nothing(
    model: Any, style: str, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    base = _sample(model)
    patched = ApplyLora.execute(model, style, 0.7, 0, "error", mode=BRANCH).args[0]
    ours = _sample(patched)
    with monkeypatch.context() as broken:
        for name in ("patches_of", "merged"):

            def fails(*arguments: Any, **options: Any) -> Any:
                raise RuntimeError("an error while reading")

            broken.setattr(plan_in_weights, name, fails)
        with pytest.raises(RuntimeError, match="an error while reading"):
            READS[title](patched)
    assert torch.equal(_sample(patched), ours)
    management.unload_all_models()
    assert torch.equal(_sample(model), base)


def test_every_name_that_the_host_is_given_is_in_a_table_here() -> None:
    """The kinds of callbacks that this pack registers; a new one needs a row above."""
    registered = {
        "ON_CLONE", "ON_DETACH", "ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES", "APPLY_MODEL", "OUTER_SAMPLE",
    }  # fmt: skip
    found: set[str] = set()
    for module in (applying, held_weaves, moving_strengths, plan_in_weights, woven_models):
        text = inspect.getsource(module)
        found |= {name for name in _host_moments() if name in text}
    assert found == registered


def _host_moments() -> set[str]:
    from comfy.patcher_extension import CallbacksMP, WrappersMP

    named = {name for kind in (CallbacksMP, WrappersMP) for name in vars(kind) if name.isupper()}
    return named | {"ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES"}
