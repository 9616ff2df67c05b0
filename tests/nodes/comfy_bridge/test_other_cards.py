"""A model that ComfyUI (0.29 and newer) copies to other cards has the LoRA on each of them: with the CPU as target."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as management
import nodes
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import WEAVE
from torch import Tensor

from ..conftest import patcher_of

Step = Callable[[Any], Tensor]
MULTIGPU = "multigpu"  # the host's key of the copies
pytestmark = pytest.mark.skipif(
    not hasattr(ModelPatcher, "deepclone_multigpu"), reason="this ComfyUI copies no model to other cards"
)


@pytest.fixture
def loaded(model: Any) -> Iterator[Any]:
    """The tiny model with a loader, as the host's own loaders leave it: asked, it gives the model anew."""
    config = model.model.model_config

    def load() -> Any:
        return patcher_of(copy.deepcopy(model.model, {id(config): config}))

    patcher = load()
    patcher.cached_patcher_init = (load, ())
    yield patcher
    management.unload_all_models()


def _ours(model: Any, name: str, strength: float = 0.8, mode: str = "branch") -> Any:
    return ApplyLora.execute(model, name, strength, strength, "error", mode=mode).args[0]


def _hosts(model: Any, name: str, strength: float = 0.8) -> Any:
    return nodes.LoraLoader().load_lora(model, None, name, strength, 0.0)[0]


@pytest.mark.parametrize("mode", ["branch", "auto", "merge"])
@pytest.mark.parametrize("order", ["copied after", "copied before"])
def test_a_copy_on_another_card_has_the_lora(loaded: Any, run: Step, style: str, mode: str, order: str) -> None:
    cpu = torch.device("cpu")
    base = run(loaded)
    wanted = run(_hosts(loaded, style))
    if order == "copied after":
        patched = _ours(loaded, style, mode=mode)
        copied = patched.deepclone_multigpu(new_load_device=cpu)
        assert copied.model is not patched.model
    else:
        copied = _ours(loaded.deepclone_multigpu(new_load_device=cpu), style, mode=mode)
    assert torch.allclose(run(copied), wanted, atol=1e-5)
    assert torch.equal(run(loaded), base)


def test_each_card_has_a_weave_of_its_own_and_a_changed_strength_reaches_both(
    loaded: Any, run: Step, style: str, other: str
) -> None:
    with_copy = loaded.clone()
    with_copy.set_additional_models(MULTIGPU, [loaded.deepclone_multigpu(new_load_device=torch.device("cpu"))])
    for names, strength in (([style], 0.8), ([style], 0.3), ([style, other], -0.4), ([], 0.0)):
        patched, wanted = with_copy, loaded
        for name in names:
            patched, wanted = _ours(patched, name, strength), _hosts(wanted, name, strength)
        patched.match_multigpu_clones()
        (on_card,) = patched.get_additional_models_with_key(MULTIGPU)
        assert on_card.model is not patched.model
        expected = run(wanted)
        for one in (patched, on_card):
            assert torch.allclose(run(one), expected, atol=1e-5), (names, strength)
        weaves = [one.get_additional_models_with_key(WEAVE) for one in (patched, on_card)]
        assert all(len(found) == bool(names) for found in weaves)
        assert not names or weaves[0][0].model is not weaves[1][0].model
