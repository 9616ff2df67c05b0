"""A converted file makes the same change, and converted back it is the file that it was."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import (
    LoadedLora,
    ModelLayout,
    NameTable,
    list_targets,
    load_lora,
    open_lora,
)
from lora_pack.lora_core.adapters import LowRank
from lora_pack.lora_core.errors import FileNotWritten, ModelNeeded, NotConvertible
from lora_pack.lora_core.file_work.writing.conversion import convert
from lora_pack.lora_core.loading.known_models import MODELS, known_layouts
from safetensors import safe_open
from torch import Tensor

from ...adapter_files import read_list, write_adapter

DIALECTS = ("kohya", "comfy", "diffusers", "peft")
DTYPES = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "int64": torch.int64}
LISTS = {  # list -> (its own dialect, its family)
    "sd15_kohya_locon_sdscripts": ("kohya", "SD1.5"),
    "sdxl_kohya_lora_sdscripts": ("kohya", "SDXL"),
    "flux_kohya_invoke": ("kohya", "Flux.1"),
    "sd3_kohya_lora_te123_sdscripts": ("kohya", "SD3"),
    "flux_diffusers_noprojmlp_invoke": ("diffusers", "Flux.1"),
    "zimage_diffusers_AB": ("diffusers", "Z-Image"),
    "wan_t2v_diffusers_AB": ("diffusers", "Wan"),
}
LATER_BLOCK = re.compile(r"(?:blocks|layers|block)[._](?:[2-9]|\d\d)[._]")  # like the first two, and left out here
QKV, PROJ, MOD = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.proj", "final_layer.adaLN_modulation.1"
LINEAR1 = "single_blocks.0.linear1"
WIDTH = 4
SMALL_FLUX = {
    f"diffusion_model.{QKV}.weight": (3 * WIDTH, WIDTH),
    f"diffusion_model.{QKV}.bias": (3 * WIDTH,),
    f"diffusion_model.{PROJ}.weight": (WIDTH, WIDTH),
    f"diffusion_model.{LINEAR1}.weight": (7 * WIDTH, WIDTH),
    f"diffusion_model.{MOD}.weight": (2 * WIDTH, WIDTH),
    "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (8, WIDTH),
}
BLOCK, SINGLE = "transformer.transformer_blocks.0.attn", "transformer.single_transformer_blocks.0"


def small_flux() -> ModelLayout:
    return list_targets(SMALL_FLUX)


def random_tensors(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def make(key: str, dtype: str, shape: list[int]) -> Tensor:
        if key.endswith("alpha"):
            return torch.full(shape, 3).to(DTYPES.get(dtype, torch.float32))
        return torch.randn(shape, generator=generator).to(DTYPES.get(dtype, torch.float16))

    return {key: make(key, *entry) for key, entry in read_list(name).items() if not LATER_BLOCK.search(key)}


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  no mapping


def converted_file(path: Path, to: str, layout: ModelLayout | None, folder: Path) -> Path:
    folder.mkdir(parents=True)
    converted = convert(open_lora(path), to, layout)
    out = folder / "adapter_model.safetensors"
    converted.content.write(out)
    return out


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert torch.equal(found[key], tensor), key


def loaded(path: Path, layout: ModelLayout) -> LoadedLora:
    lora = load_lora(open_lora(path), layout, NameTable(layout))
    lora.report.require_any().require_complete()
    return lora


def changes(lora: LoadedLora, layout: ModelLayout) -> dict[str, Tensor]:
    """What each parameter of the model gains at strength 1, float32."""
    names = {t.weight_name: t.shape for t in layout.targets.values()} | {
        t.bias_name: t.shape[:1] for t in layout.targets.values()
    }
    found: dict[str, Tensor] = {}
    for placed in lora.adapters:
        whole = found.setdefault(placed.target, torch.zeros(names[placed.target]))
        start, stop = placed.place.rows or (0, whole.shape[0])
        whole[start:stop] += placed.adapter.delta_of(torch.zeros_like(whole[start:stop]))
    return found


@pytest.fixture(scope="module", params=LISTS)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("recorded") / f"{request.param}.safetensors"
    tensors = random_tensors(request.param)
    assert len(tensors) > 30
    return request.param, write_adapter(path, tensors, {"ss_output_name": "mine"})


@pytest.mark.parametrize("to", DIALECTS)
def test_there_and_back_is_the_same_file(recorded: tuple[str, Path], tmp_path: Path, to: str) -> None:
    name, path = recorded
    own, family = LISTS[name]
    there = converted_file(path, to, None, tmp_path / "there")
    back = converted_file(there, own, None, tmp_path / "back")
    tensors, metadata = tensors_of(back)
    assert_same(tensors, tensors_of(path)[0])
    assert metadata["ss_output_name"] == "mine"
    layout = next(iter(known_layouts(family)))
    reached = {placed.target for placed in loaded(path, layout).adapters}
    assert {placed.target for placed in loaded(there, layout).adapters} == reached


def write_small(path: Path, layers: Mapping[str, tuple[int, int]], **options: object) -> Path:
    """A file with a pair of matrices for each layer -> (rows, rank), in the spelling of the layer's own prefix."""
    generator = torch.Generator().manual_seed(3)
    down, up = ("lora_down", "lora_up") if next(iter(layers)).startswith("lora_") else ("lora_A", "lora_B")
    tensors: dict[str, Tensor] = {}
    for number, (layer, (rows, rank)) in enumerate(layers.items()):
        tensors[f"{layer}.{down}.weight"] = torch.randn(rank, WIDTH, generator=generator)
        tensors[f"{layer}.{up}.weight"] = torch.randn(rows, rank, generator=generator)
        if options.get("alpha"):
            tensors[f"{layer}.alpha"] = torch.tensor(float(number + 1))
    return write_adapter(path, tensors)


SMALL_FILES = {
    "fused": {
        f"lora_unet_{QKV.replace('.', '_')}": (3 * WIDTH, 3),
        f"lora_unet_{LINEAR1.replace('.', '_')}": (7 * WIDTH, 2),
        f"lora_unet_{MOD.replace('.', '_')}": (2 * WIDTH, 2),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (8, 2),
    },
    "split": {
        f"{BLOCK}.to_q": (WIDTH, 3),
        f"{BLOCK}.to_k": (WIDTH, 1),
        f"{BLOCK}.to_v": (WIDTH, 2),
        f"{SINGLE}.proj_mlp": (4 * WIDTH, 2),
        f"{SINGLE}.attn.to_k": (WIDTH, 2),
        "transformer.norm_out.linear": (2 * WIDTH, 2),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": (8, 2),
    },
}


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("to", DIALECTS)
@pytest.mark.parametrize("source", SMALL_FILES)
def test_a_converted_file_makes_the_same_change(tmp_path: Path, source: str, to: str, alpha: bool) -> None:
    layout = small_flux()
    path = write_small(tmp_path / "a.safetensors", SMALL_FILES[source], alpha=alpha)
    there = converted_file(path, to, layout, tmp_path / "there")
    expected, found = changes(loaded(path, layout), layout), changes(loaded(there, layout), layout)
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert torch.allclose(found[name], change, atol=1e-6), name
    same_scale = not alpha or source == "fused" or to in ("diffusers", "peft")
    if same_scale:  # adapters of different scales in one layer share one alpha, so their matrices take the difference
        back = converted_file(there, "kohya" if source == "fused" else "diffusers", layout, tmp_path / "back")
        tensors = tensors_of(back)[0]
        originals = {key: t for key, t in tensors_of(path)[0].items() if source == "fused" or not key.endswith("alpha")}
        assert_same(tensors, originals)


def test_a_part_that_is_missing_stays_missing(tmp_path: Path) -> None:
    layers = {f"{BLOCK}.to_q": (WIDTH, 2), f"{BLOCK}.to_v": (WIDTH, 2)}
    path = write_small(tmp_path / "a.safetensors", layers)
    fused = converted_file(path, "comfy", small_flux(), tmp_path / "there")
    up = tensors_of(fused)[0][f"diffusion_model.{QKV}.lora_B.weight"]
    assert up.shape == (3 * WIDTH, 4) and not up[WIDTH : 2 * WIDTH].any()
    back = converted_file(fused, "diffusers", small_flux(), tmp_path / "back")
    assert_same(tensors_of(back)[0], tensors_of(path)[0])


def test_a_rank_stabilised_configuration_becomes_an_alpha_of_the_same_scale(tmp_path: Path) -> None:
    layer = f"base_model.model.{PROJ}"
    folder = tmp_path / "peft"
    folder.mkdir()
    path = write_adapter(
        folder / "adapter_model.safetensors",
        {f"{layer}.lora_A.weight": torch.ones(4, WIDTH), f"{layer}.lora_B.weight": torch.ones(WIDTH, 4)},
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "use_rslora": True, "base_model_name_or_path": "mine"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    kohya = converted_file(path, "kohya", small_flux(), tmp_path / "there")
    (placed,) = loaded(kohya, small_flux()).adapters
    assert isinstance(placed.adapter, LowRank)
    assert math.isclose(placed.adapter.scale, 3 / math.sqrt(4), rel_tol=1e-7)
    back = converted_file(kohya, "peft", small_flux(), tmp_path / "back")
    (again,) = loaded(back, small_flux()).adapters
    assert isinstance(again.adapter, LowRank) and again.adapter.scale == placed.adapter.scale
    assert json.loads((back.parent / "adapter_config.json").read_text())["base_model_name_or_path"] == "mine"


def test_magnitudes_per_output_are_carried_in_each_dialects_shape(tmp_path: Path) -> None:
    name = f"lora_unet_{PROJ.replace('.', '_')}"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, WIDTH),
        f"{name}.lora_up.weight": torch.randn(WIDTH, 2),
        f"{name}.dora_scale": torch.rand(WIDTH, 1) + 0.5,
    }
    path = write_adapter(tmp_path / "a.safetensors", tensors)
    there = converted_file(path, "peft", small_flux(), tmp_path / "there")
    assert json.loads((there.parent / "adapter_config.json").read_text())["use_dora"] is True
    (magnitude,) = [t for key, t in tensors_of(there)[0].items() if key.endswith("lora_magnitude_vector")]
    assert magnitude.shape == (WIDTH,)
    assert_same(tensors_of(converted_file(there, "kohya", small_flux(), tmp_path / "back"))[0], tensors)


def test_other_algorithms_move_between_the_dialects_that_have_words_for_them(tmp_path: Path) -> None:
    name = f"lora_unet_{QKV.replace('.', '_')}"
    tensors = {
        f"{name}.lokr_w1": torch.randn(3, 2),
        f"{name}.lokr_w2": torch.randn(4, 2),
        f"{name}.alpha": torch.ones(()),
    }
    path = write_adapter(tmp_path / "a.safetensors", tensors)
    there = converted_file(path, "comfy", small_flux(), tmp_path / "there")
    assert_same(tensors_of(converted_file(there, "kohya", small_flux(), tmp_path / "back"))[0], tensors)
    with pytest.raises(NotConvertible, match="lokr_w1"):
        convert(open_lora(path), "diffusers", small_flux())


def test_a_configuration_means_no_other_layer_than_those_of_the_file(tmp_path: Path) -> None:
    """The outer proj_out of Flux is also the end of every single block's."""
    layout = list_targets(
        {
            "diffusion_model.double_blocks.0.img_attn.proj.weight": (WIDTH, WIDTH),
            "diffusion_model.single_blocks.0.linear2.weight": (WIDTH, WIDTH),
            "diffusion_model.final_layer.linear.weight": (WIDTH, WIDTH),
        }
    )
    path = write_small(tmp_path / "a.safetensors", {"transformer.proj_out": (WIDTH, 2)})
    config = convert(open_lora(path), "peft", layout).content.peft_config
    assert config is not None and config["target_modules"] == "proj_out"
    path = write_small(tmp_path / "b.safetensors", {"transformer.single_transformer_blocks.0.proj_out": (WIDTH, 2)})
    config = convert(open_lora(path), "peft", layout).content.peft_config
    assert config is not None and config["target_modules"] == ["single_transformer_blocks.0.proj_out"]


def test_metadata_is_kept_and_what_became_wrong_is_told(tmp_path: Path) -> None:
    metadata = {"ss_output_name": "mine", "modelspec.title": "Mine", "sshs_model_hash": "ab" * 32}
    path = write_small(tmp_path / "a.safetensors", SMALL_FILES["fused"])
    path = write_adapter(tmp_path / "b.safetensors", tensors_of(path)[0], metadata)
    converted = convert(open_lora(path), "comfy", small_flux())
    assert {key: converted.content.metadata.get(key) for key in metadata} == {**metadata, "sshs_model_hash": None}
    assert any("sshs_model_hash" in note for note in converted.notes)


def test_keys_without_a_weight_are_listed_as_left_out(tmp_path: Path) -> None:
    tensors = tensors_of(write_small(tmp_path / "a.safetensors", SMALL_FILES["fused"]))[0]
    path = write_adapter(tmp_path / "b.safetensors", tensors | {"bundle_emb.me.clip_l": torch.zeros(2, 4)})
    assert [note.key for note in convert(open_lora(path), "comfy", small_flux()).dropped] == ["bundle_emb.me.clip_l"]


def test_keys_that_fit_nothing_stop_a_conversion_and_are_all_named(tmp_path: Path) -> None:
    tensors = tensors_of(write_small(tmp_path / "a.safetensors", SMALL_FILES["fused"]))[0]
    odd = {"lora_unet_nowhere.lora_down.weight": torch.zeros(1), "what.ever": torch.zeros(1)}
    path = write_adapter(tmp_path / "b.safetensors", tensors | odd)
    with pytest.raises(NotConvertible) as error:
        convert(open_lora(path), "comfy", small_flux())
    assert all(key in str(error.value) for key in odd)


def test_a_file_of_an_unknown_family_asks_for_the_model(tmp_path: Path) -> None:
    path = write_small(tmp_path / "a.safetensors", {"lora_unet_stem_mixer": (WIDTH, 2)})
    with pytest.raises(ModelNeeded, match=r"seems made for an unknown family.*--model") as error:
        convert(open_lora(path), "comfy")
    assert "none of its keys" not in str(error.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_small(tmp_path / "a.safetensors", SMALL_FILES["fused"])
    folder = tmp_path / "there"
    out = converted_file(path, "comfy", small_flux(), folder)
    before = out.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(FileNotWritten, match="No space left"):
        convert(open_lora(path), "kohya", small_flux()).content.write(out)
    assert out.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == [out.name]


@pytest.mark.parametrize("family", MODELS)
def test_every_released_model_is_of_the_family_it_stands_for(family: str) -> None:
    for layout in known_layouts(family):
        assert layout.family.name == family


def test_magnitudes_per_input_of_a_square_convolution_are_not_taken_for_those_per_output(tmp_path: Path) -> None:
    conv = "double_blocks.0.conv"
    name = f"lora_unet_{conv.replace('.', '_')}"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, WIDTH, 3, 3),
        f"{name}.lora_up.weight": torch.randn(WIDTH, 2, 1, 1),
        f"{name}.dora_scale": torch.rand(1, WIDTH, 1, 1) + 0.5,
    }
    path = write_adapter(tmp_path / "a.safetensors", tensors)
    layout = list_targets({**SMALL_FLUX, f"diffusion_model.{conv}.weight": (WIDTH, WIDTH, 3, 3)})
    with pytest.raises(NotConvertible, match="magnitudes per input"):
        convert(open_lora(path), "peft", layout)
    assert_same(tensors_of(converted_file(path, "kohya", layout, tmp_path / "same"))[0], tensors)
