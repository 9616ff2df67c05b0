"""Names of transformer families point at the right rows: against the models of diffusers, layer by layer."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import NameTable
from lora_pack.lora_core.adapters.full_delta import FullDelta
from lora_pack.lora_core.adapters.row_order import SwappedHalves
from lora_pack.lora_core.names.name_table import Place
from lora_pack.lora_core.names.path_names import diffusers_names, names_of_part, other_text, wan

from ..adapter_files import load, model_layout, read_list, write_adapter

FAMILIES = (
    "flux1_dev",
    "flux2_dev",
    "chroma",
    "hunyuan_video",
    "sd3_medium",
    "sd35_medium",
    "sd35_large",
    "auraflow",
    "pixart_sigma",
    "wan21_i2v_14b",
    "wan21_t2v_14b",
    "wan21_vace",
    "ltxv_2b",
    "ltx2",
    "lumina2",
    "zimage",
    "qwen_image",
    "anima",
    "krea2",
    "kandinsky5",
    "ace_step15",
    "hidream",
)
NOT_IN_HOST = {  # how layers begin that stand for no layer of the host's model
    # diffusers' list is the one that reads the picture's size; the host's is the one that does not
    "pixart_sigma": ("adaln_single.emb.resolution_embedder", "adaln_single.emb.aspect_ratio_embedder"),
}
SWAPPED_HALVES = {"sd3_medium": 2, "sd35_medium": 2, "sd35_large": 2} | dict.fromkeys(
    ("flux1_dev", "flux2_dev", "hunyuan_video", "auraflow"), 1
)
BARE_NORMS = ("krea2",)  # whose norms are bare parameters in the host


def _places(family: str) -> dict[str, tuple[Place, tuple[int, ...]]]:
    """Each layer of diffusers' model -> its place in the host's model, and its own shape."""
    table = NameTable(model_layout(f"{family}_comfy"))
    places: dict[str, tuple[Place, tuple[int, ...]]] = {}
    for key, (_, shape) in read_list(f"base_{family}_diffusers").items():
        name = key.removesuffix(".weight")
        if not key.endswith(".weight") or name.startswith(NOT_IN_HOST.get(family, ())):
            continue
        if family in BARE_NORMS and len(shape) == 1:
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
def test_each_run_of_rows_has_one_name_that_diffusers_itself_uses(family: str) -> None:
    targets = model_layout(f"{family}_comfy").targets.values()
    names = list(diffusers_names("unet", {target.inner: target.shape for target in targets}))
    theirs = {key.removesuffix(".weight") for key in read_list(f"base_{family}_diffusers")} | {
        f"connectors.{key.removesuffix('.weight')}" for key in read_list("base_ltx2_connectors_diffusers")
    }
    assert len({(name.inner, name.rows) for name in names}) == len({name.name for name in names}) == len(names)
    assert [name for name in names if name.name not in theirs and not name.inner.startswith("llm_adapter.")] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_modulations_that_diffusers_turns_round_are_swapped(family: str) -> None:
    swapped = [name for name, (place, _) in _places(family).items() if place.swap_halves]
    assert len(swapped) == SWAPPED_HALVES.get(family, 0)
    assert all("norm" in name for name in swapped)


@pytest.mark.parametrize("family", ["auraflow", "pixart_sigma"])
def test_names_agree_with_the_map_that_comfyui_makes(family: str) -> None:
    layout = model_layout(f"{family}_comfy")
    table = NameTable(layout)
    recorded = {name: _comfy_place(place) for name, place in read_list(f"map_{family}").items()}
    layers = {name: place for name, place in recorded.items() if place.path in layout.targets}
    assert len(layers) > 100
    for name, place in layers.items():
        found = table.find(name)
        assert not isinstance(found, str), f"{name}: {found}"
        assert found[0] == (place,), name


@pytest.mark.parametrize("dotted", [True, False])
def test_xlabs_names_stand_for_the_layers_that_its_processors_replace(dotted: bool) -> None:
    table = NameTable(model_layout("flux1_dev_comfy"))
    for name, layer, rows in (
        ("double_blocks.18.processor.qkv_lora1", "double_blocks.18.img_attn.qkv", None),
        ("double_blocks.18.processor.qkv_lora2", "double_blocks.18.txt_attn.qkv", None),
        ("double_blocks.18.processor.proj_lora1", "double_blocks.18.img_attn.proj", None),
        ("double_blocks.18.processor.proj_lora2", "double_blocks.18.txt_attn.proj", None),
        ("single_blocks.37.processor.qkv_lora", "single_blocks.37.linear1", (0, 9216)),
        ("single_blocks.37.processor.qkv", "single_blocks.37.linear1", (0, 9216)),
        ("single_blocks.37.linear1_qkv", "single_blocks.37.linear1", (0, 9216)),
        ("single_blocks.37.processor.proj_lora", "single_blocks.37.linear2", None),
        ("single_blocks.37.processor.proj", "single_blocks.37.linear2", None),
    ):
        found = table.find(name if dotted else f"lora_unet_{name.replace('.', '_')}")
        assert not isinstance(found, str), f"{name}: {found}"
        assert found[0] == (Place(f"diffusion_model.{layer}", rows),)


def test_every_layer_of_a_real_xlabs_file_has_a_place_of_its_shape() -> None:
    layout = model_layout("flux1_dev_comfy")
    table = NameTable(layout)
    ups = {key: shape for key, (_, shape) in read_list("flux_xlabs_muchai").items() if key.endswith(".up.weight")}
    assert len(ups) == 76
    for key, (out, _) in ups.items():
        found = table.find(key.removesuffix(".up.weight"))
        assert not isinstance(found, str), f"{key}: {found}"
        assert layout.targets[found[0][0].path].shape[0] == out


def test_a_block_of_wan_stands_for_its_modulation() -> None:
    shapes = {"blocks.7.modulation": (1, 6, 5120), "head.modulation": (1, 2, 5120), "blocks.7.norm3": (5120,)}
    names = {name.name: name.inner for name in wan.names(shapes)}
    assert (names["blocks.7"], names["head"]) == ("blocks.7.modulation", "head.modulation")


def test_every_layer_of_the_connectors_of_ltx_2_has_a_place_of_its_shape() -> None:
    layout = model_layout("ltx2_comfy")
    table = NameTable(layout)
    weights = {
        key: shape for key, (_, shape) in read_list("base_ltx2_connectors_diffusers").items() if ".weight" in key
    }
    del weights["text_proj_in.weight"]  # the host has it in the text encoder
    assert len(weights) == 32
    for key, shape in weights.items():
        found = table.find(f"connectors.{key.removesuffix('.weight')}")
        assert not isinstance(found, str), f"{key}: {found}"
        assert layout.targets[found[0][0].path].shape == tuple(shape)


def test_every_layer_of_hugging_faces_t5_has_a_place() -> None:
    table = NameTable(model_layout("flux_clip_comfy"))
    layers = [key.removesuffix(".weight") for key in read_list("base_te_t5xxl_hf")]
    found = {layer: table.find(f"text_encoder_2.{layer}") for layer in layers}
    assert len(layers) > 200 and not [layer for layer, place in found.items() if isinstance(place, str)]
    places = {layer: place[0][0].path for layer, place in found.items() if not isinstance(place, str)}
    assert all(path == f"t5xxl.transformer.{layer}" for layer, path in places.items() if "embed_tokens" not in layer)


@pytest.mark.parametrize(
    ("model", "part"),
    [("hunyuan_video_te_comfy", "llama"), ("zimage_te_comfy", "qwen3_4b"), ("qwen_image_te_comfy", "qwen25_7b")],
)
@pytest.mark.parametrize("level", ["", "model.", "language_model.", "model.language_model.", "language_model.model."])
def test_a_language_model_is_known_with_and_without_its_outer_levels(model: str, part: str, level: str) -> None:
    inner = [target.inner for target in model_layout(model).targets.values() if target.part == part]
    layers = [path.removeprefix("model.") for path in inner if path.startswith("model.layers.")]
    known = {name.name: name.inner for name in names_of_part(part, dict.fromkeys(inner, ()))}
    assert layers
    assert all((known | {path: path for path in inner})[level + layer] == f"model.{layer}" for layer in layers)


def test_berts_layers_are_known_without_its_outer_level() -> None:
    path = "bert.encoder.layer.0.attention.self.query"
    assert [(name.name, name.inner) for name in other_text.names([path])] == [(path.removeprefix("bert."), path)]


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


def _comfy_place(place: str | list[Any]) -> Place:
    """ComfyUI's target of a key: the weight's name, or [name, [dim, start, length] | None, function?]."""
    name, part, *function = place if isinstance(place, list) else [place, None]
    rows = (part[1], part[1] + part[2]) if part else None
    return Place(name.removesuffix(".weight"), rows, function == ["swap_scale_shift"])
