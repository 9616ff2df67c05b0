"""Names of transformer families point at the right rows: against the models of diffusers, layer by layer."""

import itertools
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import NameTable
from lora_pack.lora_core.adapters.full_delta import FullDelta
from lora_pack.lora_core.adapters.row_order import SwappedHalves
from lora_pack.lora_core.key_map import Place

from .adapter_files import load, model_layout, read_list, write_adapter

FAMILIES = {  # model: layers of diffusers' model that stand for no layer of the host's one to one, by how they begin
    "flux1_dev": (),
    "sd3_medium": (),
    "sd35_medium": (),
    "sd35_large": (),
    "wan21_i2v_14b": (),
    "zimage": (),
    "qwen_image": (),
    "hunyuan_video": ("context_embedder", "x_embedder"),
    "chroma": ("distilled_guidance_layer",),
}
CHANGED_HALVES = {"flux1_dev": 1, "sd3_medium": 2, "sd35_medium": 2, "sd35_large": 2, "hunyuan_video": 1}


def _places(family: str) -> dict[str, tuple[Place, tuple[int, ...]]]:
    """Each layer of diffusers' model -> its place in the host's model, and its own shape."""
    table = NameTable(model_layout(f"{family}_comfy"))
    places: dict[str, tuple[Place, tuple[int, ...]]] = {}
    for key, (_, shape) in read_list(f"base_{family}_diffusers").items():
        name = key.removesuffix(".weight")
        if not key.endswith(".weight") or name.startswith(FAMILIES[family]):
            continue
        found = table.find(f"transformer.{name}")
        assert not isinstance(found, str), f"{name}: {found}"
        places[name] = (found[0][0], tuple(shape))
    assert places
    return places


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_diffusers_has_a_place_of_its_own_shape(family: str) -> None:
    targets = model_layout(f"{family}_comfy").targets
    for name, (place, shape) in _places(family).items():
        target = targets[place.path].shape
        rows = (place.rows[1] - place.rows[0],) if place.rows else target[:1]
        assert torch.Size((*rows, *target[1:])).numel() == torch.Size(shape).numel(), name
        assert rows[0] == shape[0], name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rows_of_a_fused_layer_are_covered_once_and_without_a_gap(family: str) -> None:
    targets = model_layout(f"{family}_comfy").targets
    covered: dict[str, list[tuple[int, int]]] = {}
    for place, _ in _places(family).values():
        covered.setdefault(place.path, []).append(place.rows or (0, targets[place.path].shape[0]))
    for path, rows in covered.items():
        ends = sorted(rows)
        assert ends[0][0] == 0 and ends[-1][1] == targets[path].shape[0], path
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ends)), path


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_modulations_that_diffusers_turns_round_are_swapped(family: str) -> None:
    swapped = [name for name, (place, _) in _places(family).items() if place.swap_halves]
    assert len(swapped) == CHANGED_HALVES.get(family, 0)
    assert all("norm" in name for name in swapped)


def test_swapping_exchanges_the_halves_of_the_rows() -> None:
    adapter = SwappedHalves(FullDelta(torch.tensor([[1.0], [2.0], [3.0], [4.0]])))
    weight = torch.zeros(4, 1)
    adapter.add_delta_(weight, 10.0)
    assert weight.flatten().tolist() == [30.0, 40.0, 10.0, 20.0]
    assert torch.equal(adapter.with_tensors(adapter.tensors()).delta_of(weight), adapter.delta_of(weight))


def test_three_adapters_of_one_fused_layer_are_placed_on_their_rows(tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn"
    tensors = {
        f"{layer}.to_{name}.lora_{side}.weight": torch.ones(2, 3072) if side == "A" else torch.ones(3072, 2)
        for name in "qkv"
        for side in "AB"
    }
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), model_layout("flux1_dev_comfy"))
    path = "diffusion_model.double_blocks.0.img_attn.qkv"
    rows = sorted(placed.place.rows or () for placed in lora.adapters)
    assert {placed.place.path for placed in lora.adapters} == {path}
    assert rows == [(0, 3072), (3072, 6144), (6144, 9216)]


def test_a_fused_and_a_split_name_for_the_same_rows_are_a_conflict(tmp_path: Path) -> None:
    fused, split = "diffusion_model.double_blocks.0.img_attn.qkv", "transformer.transformer_blocks.0.attn.to_k"
    tensors = {
        f"{fused}.lora_A.weight": torch.ones(2, 3072),
        f"{fused}.lora_B.weight": torch.ones(9216, 2),
        f"{split}.lora_A.weight": torch.ones(2, 3072),
        f"{split}.lora_B.weight": torch.ones(3072, 2),
    }
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), model_layout("flux1_dev_comfy")).report
    assert (report.layers, len(report.unmatched)) == (1, 2)
    assert all(note.reason.startswith("conflict") for note in report.unmatched)
