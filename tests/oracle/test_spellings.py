"""One adapter, injected by PEFT into diffusers, does the same through our node, whichever way its file spells it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file

from .adapters import ATTENTION, RECIPES, Trained, injected
from .comparison import TOLERANCE, apply, assert_same_effect, largest_difference
from .spellings import SPELLINGS, Spelling, diffusers_pipeline, diffusers_unet, peft_directory
from .tiny_unets import TwinUNet

FAMILIES = ("SD1.5", "SDXL")
ALTERNATING = [s for s in SPELLINGS if s.name in ("peft directory", "kohya, ldm names")]
RECIPES_OF: dict[str, Callable[[Spelling], Sequence[str]]] = {
    "SD1.5": lambda spelling: spelling.recipes,
    "SDXL": lambda spelling: spelling.recipes[-1:],  # a large model: one recipe each
}
CASES = [
    pytest.param(family, spelling, recipe, id=f"{family}: {spelling.name}: {recipe}")
    for family in FAMILIES
    for spelling in SPELLINGS
    for recipe in RECIPES_OF[family](spelling)
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_twins_agree_before_any_adapter(twins: dict[str, TwinUNet], family: str):
    twin = twins[family]
    assert sorted(twin.names.values()) == sorted(twin.host_weights())
    assert largest_difference(twin.base, twin.reference_output()) <= TOLERANCE / 2
    assert twin.reference_output().std() > 0.2


@pytest.mark.parametrize(("family", "spelling", "recipe"), CASES)
def test_every_spelling_gives_the_output_of_peft(
    twins: dict[str, TwinUNet], trained: Trained, loras_dir: Path, family: str, spelling: Spelling, recipe: str
):
    twin = twins[family]
    adapter, expected = trained(family, recipe)
    name = spelling.file_in(loras_dir, twin, adapter)
    patched = apply(twin.patcher, name)
    assert_same_effect(f"{family}: {spelling.name}: {recipe}", twin.host_output(patched), expected, twin.base)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_at_initialisation_changes_nothing(twins: dict[str, TwinUNet], loras_dir: Path, family: str):
    twin = twins[family]
    with injected(twin.reference, {"fresh": "own alpha"}, trained=False) as (adapter,):
        assert all(not tensor.any() for key, tensor in adapter.tensors.items() if ".lora_B." in key)
        assert all(tensor.any() for key, tensor in adapter.tensors.items() if ".lora_A." in key)
    patched = apply(twin.patcher, SPELLINGS[0].file_in(loras_dir, twin, adapter))
    assert patched.patches or patched.injections
    assert torch.equal(twin.host_output(patched), twin.base)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_bit_equal_to_before_after_two_files(
    twins: dict[str, TwinUNet], trained: Trained, loras_dir: Path, family: str
):
    twin = twins[family]
    output, weights = twin.host_output(), twin.host_weights()
    for spelling in ALTERNATING:
        adapter, _ = trained(family, spelling.recipes[-1])
        patched = apply(twin.patcher, spelling.file_in(loras_dir, twin, adapter))
        assert not torch.equal(twin.host_output(patched), output)
    assert torch.equal(twin.host_output(), output)
    for name, weight in twin.host_weights().items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("recipe", ["patterns", "every layer"])
def test_our_peft_directory_is_the_one_that_peft_saves(
    twins: dict[str, TwinUNet], trained: Trained, tmp_path: Path, recipe: str
):
    sd15 = twins["SD1.5"]
    model = PeftModel(sd15.reference, LoraConfig(**{"target_modules": ATTENTION, **RECIPES[recipe]}))
    model.save_pretrained(tmp_path / "theirs")
    model.unload()
    (tmp_path / "ours").mkdir()
    peft_directory(tmp_path / "ours" / "adapter_model.safetensors", sd15, trained("SD1.5", recipe)[0])
    assert shapes(tmp_path / "ours" / "adapter_model.safetensors") == shapes(
        tmp_path / "theirs" / "adapter_model.safetensors"
    )


def test_our_bare_file_is_the_one_that_a_diffusers_unet_saves(twins: dict[str, TwinUNet], tmp_path: Path):
    sd15, ours = twins["SD1.5"], tmp_path / "ours.safetensors"
    with injected(sd15.reference, {"one": "patterns"}) as (adapter,):
        sd15.reference.save_lora_adapter(tmp_path, adapter_name="one", weight_name="theirs.safetensors")
    diffusers_unet(ours, sd15, adapter)
    assert shapes(ours) == shapes(tmp_path / "theirs.safetensors")
    assert header(ours).keys() == header(tmp_path / "theirs.safetensors").keys()


@pytest.mark.parametrize(("family", "recipe"), [("SD1.5", "patterns"), ("SDXL", "every layer")])
def test_diffusers_reads_its_scale_out_of_the_same_header_as_we_do(
    twins: dict[str, TwinUNet], trained: Trained, tmp_path: Path, family: str, recipe: str
):
    """Guards the oracle itself: the file of a spelling means to diffusers what we take it to mean."""
    twin = twins[family]
    adapter, expected = trained(family, recipe)
    diffusers_pipeline(tmp_path / "file.safetensors", twin, adapter)
    twin.reference.load_lora_adapter(tmp_path, weight_name="file.safetensors", prefix="unet")
    output = twin.reference_output()
    twin.reference.unload_lora()
    assert torch.equal(output, expected)


def shapes(path: Path) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in load_file(path).items()}


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()
