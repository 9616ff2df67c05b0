"""Adapters at any strength, alone or together, add up through our nodes as set_adapters and fuse_lora make them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.weave import BRANCH, MERGE

from .adapters import PeftAdapter, injected, set_strengths
from .comparison import apply, assert_same_effect, largest_difference
from .spellings import kohya_ldm_names, peft_directory
from .tiny_unets import TwinUNet

STRENGTHS: tuple[Mapping[str, float], ...] = (
    {"one": 0.5},
    {"one": -1.0},
    {"one": 2.0},
    {"one": 0.7, "two": -0.4},
    {"one": -1.5, "two": 1.25},
    {"one": 0.0, "two": 0.8},
)
CASES = [
    *(pytest.param("SD1.5", strengths, id=f"SD1.5: {strengths}") for strengths in STRENGTHS),
    *(pytest.param("SDXL", strengths, id=f"SDXL: {strengths}") for strengths in STRENGTHS[2:5]),  # it is larger
]
FUSED_AT = 0.5  # lora_scale, by which fuse_lora multiplies every strength
WEIGHT_TOLERANCE = 5e-7  # of weights of the order of 0.1, float32


@dataclass(frozen=True, eq=False)
class Pair:
    """A twin whose reference holds the adapters "one" and "two", of different ranks and targets."""

    twin: TwinUNet
    adapters: Mapping[str, PeftAdapter]


@pytest.fixture(scope="module", params=["SD1.5", "SDXL"])
def pair(request: pytest.FixtureRequest, twins: dict[str, TwinUNet]) -> Iterator[Pair]:
    twin = twins[request.param]
    with injected(twin.reference, {"one": "patterns", "two": "some layers"}) as (one, two):
        yield Pair(twin, {"one": one, "two": two})


@pytest.mark.parametrize("mode", [BRANCH, MERGE])
@pytest.mark.parametrize(("pair", "strengths"), CASES, indirect=["pair"])
def test_chained_nodes_give_the_output_of_set_adapters(
    pair: Pair, loras_dir: Path, strengths: Mapping[str, float], mode: str
):
    set_strengths(pair.twin.reference, strengths)
    expected = pair.twin.reference_output()
    ours = pair.twin.host_output(chain(pair, loras_dir, strengths, mode))
    assert_same_effect(f"{pair.twin.family}: strengths {strengths}", ours, expected, pair.twin.base)


def test_strength_0_is_bit_equal_to_the_base_at_first_and_after_another_strength(pair: Pair, loras_dir: Path):
    for strength, mode in ((0.0, BRANCH), (-2.0, BRANCH), (0.0, MERGE), (2.0, MERGE), (0.0, BRANCH)):
        output = pair.twin.host_output(chain(pair, loras_dir, {"one": strength, "two": strength}, mode))
        assert torch.equal(output, pair.twin.base) == (strength == 0.0)


def test_every_patched_weight_is_the_one_that_fuse_lora_leaves(pair: Pair, loras_dir: Path):
    strengths = {"one": 0.7, "two": -0.4}
    fused = fused_weights(pair.twin.reference, strengths)
    pair.twin.host_output(chain(pair, loras_dir, {name: FUSED_AT * at for name, at in strengths.items()}, MERGE))
    ours = pair.twin.host_weights()
    assert fused.keys() == pair.twin.names.keys()
    worst = max(largest_difference(ours[pair.twin.names[name]], weight) for name, weight in fused.items())
    print(f"[oracle] {pair.twin.family}: fused weights: difference {worst:.1e}")
    assert worst <= WEIGHT_TOLERANCE


def chain(pair: Pair, loras_dir: Path, strengths: Mapping[str, float], mode: str) -> Any:
    """One "Apply LoRA" after another, on files in two dialects."""
    model = pair.twin.patcher
    for name, strength in strengths.items():
        model = apply(model, file_of(pair, loras_dir, name), strength, mode)
    return model


def file_of(pair: Pair, loras_dir: Path, name: str) -> str:
    path = loras_dir / name / "adapter_model.safetensors"
    if not path.exists():
        path.parent.mkdir()
        write = {"one": peft_directory, "two": kohya_ldm_names}[name]
        write(path, pair.twin, pair.adapters[name])
    return f"{name}/{path.name}"


def fused_weights(model: Any, strengths: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """The parameters that fuse_lora makes, by the names that they have without PEFT; the model is left as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    set_strengths(model, strengths)
    model.fuse_lora(lora_scale=FUSED_AT, adapter_names=list(strengths))
    fused = {name.replace(".base_layer.", "."): tensor.clone() for name, tensor in model.state_dict().items()}
    model.unfuse_lora()  # leaves rounding behind
    model.load_state_dict(before)
    return {name: tensor for name, tensor in fused.items() if ".lora_" not in name}
