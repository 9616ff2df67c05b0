"""Every node of the host that takes a MODEL or a CLIP does behind ours what it does behind the host's own loader.

The nodes are listed by their schemas, so that a new one is tried too: all whose other inputs have defaults are run.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as management
import nodes
import pytest
import torch
from lora_pack.nodes.apply.apply_lora import ApplyLora
from torch import Tensor

from ..conftest import sampled
from ..host_nodes import CLIP, MODEL, nodes_that_take, output_of

STRENGTH = 0.7
STEPS = 2
NEAR = 1e-3  # largest difference as a share of the effect of the LoRA


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    yield
    management.unload_all_models()


def _sample(model: Any) -> Tensor:
    return sampled(model, STEPS)


def _ours(model: Any, clip: Any, name: str) -> tuple[Any, Any]:
    result = ApplyLora.execute(model, name, STRENGTH, STRENGTH, "report", clip, mode="branch").args
    return result[0], result[1]


def _hosts(model: Any, clip: Any, name: str) -> tuple[Any, Any]:
    return nodes.LoraLoader().load_lora(model, clip, name, STRENGTH, STRENGTH)


def _agree(found: Tensor, wanted: Tensor, base: Tensor) -> None:
    """As little of the LoRA's effect is off as sums in another order make."""
    if not torch.isfinite(wanted).all():
        pytest.skip("the tiny model's picture overflows behind this node, whoever applies")
    effect = float((wanted - base).abs().max())
    if effect == 0:  # a model minus itself
        assert torch.equal(found, wanted)
        return
    off = float((found - wanted).abs().max()) / max(effect, 1e-3 * float(wanted.abs().max()))
    assert math.isfinite(off) and off <= NEAR


@pytest.mark.parametrize("name", nodes_that_take(MODEL))
def test_a_node_that_takes_a_model_does_the_same_behind_our_branch(model: Any, style: str, name: str) -> None:
    def made(apply: Callable[..., tuple[Any, Any]] | None) -> Tensor:
        patched = model if apply is None else apply(model, None, style)[0]
        try:
            return _sample(output_of(name, MODEL, {MODEL: patched}))
        except Exception as error:
            if apply is None:
                pytest.skip(f"does not run with its defaults on the tiny model: {type(error).__name__}")
            raise

    base = made(None)
    plain = _sample(model)
    _agree(made(_ours), made(_hosts), base)
    assert torch.equal(_sample(model), plain)


@pytest.mark.parametrize("name", nodes_that_take(MODEL))
def test_our_branch_behind_a_node_that_takes_a_model_does_what_the_hosts_loader_does(
    model: Any, style: str, name: str
) -> None:
    try:
        behind = output_of(name, MODEL, {MODEL: model})
        base = _sample(behind)
    except Exception as error:
        pytest.skip(f"does not run with its defaults on the tiny model: {type(error).__name__}")
    _agree(_sample(_ours(behind, None, style)[0]), _sample(_hosts(behind, None, style)[0]), base)


def test_the_merging_and_multiplying_nodes_are_among_those_tried() -> None:
    tried = set(nodes_that_take(MODEL))
    assert {"ModelMergeSimple", "ModelMergeAdd", "ModelMergeSubtract", "FreeU_V2"} <= tried
    assert {"UNetSelfAttentionMultiply", "UNetCrossAttentionMultiply", "ModelSamplingDiscrete"} <= tried
    assert {"CLIPMergeSimple", "CLIPSetLastLayer", "CLIPAttentionMultiply"} <= set(nodes_that_take(CLIP))
