"""Real and generated key lists reach every layer they name, and every key is accounted for."""

import json
from pathlib import Path

import pytest
from lora_pack.lora_core import FamilyMismatch, LoraFile, NameTable, load_lora
from lora_pack.lora_core.loading.inspection import inspect_file, open_file_or_key_list
from lora_pack.lora_core.names.key_map import map_keys
from lora_pack.lora_core.names.path_names.sd_unet import diffusers_names

from ..adapter_files import load, model_layout, read_list, write_list

SD15 = ("sd15_unet_comfy", "sd15_clip_comfy")
SDXL = ("sdxl_unet_comfy", "sdxl_clip_comfy")
FLUX = ("flux1_dev_comfy", "flux_clip_comfy")
SD3 = ("sd3_medium_comfy", "sd3_clip_comfy")
COMPLETE = (  # list, model, layers it reaches, dialect
    ("sd15_kohya_lora_sdscripts", SD15, 264, "kohya"),
    ("sd15_kohya_locon_sdscripts", SD15, 350, "kohya"),
    ("sd15_kohya_lcm_muchai", SD15, 278, "kohya"),
    ("sd15_diffusers_unet_lora_down", SD15, 128, "diffusers"),
    ("sd15_diffusers_unet_lora_AB", SD15, 128, "diffusers"),
    ("sd15_diffusers_unet_conv_lora", SD15, 278, "diffusers"),
    ("sd15_diffusers_attnprocs_unet_te", SD15, 176, "diffusers"),
    ("sd15_peft_lora", SD15, 128, "peft"),
    ("sd15_lycoris_locon_tucker", SD15, 354, "kohya"),
    ("sd15_lycoris_locon", SD15, 354, "kohya"),
    ("sd15_lycoris_locon_norm", SD15, 462, "kohya"),
    ("sd15_lycoris_loha", SD15, 354, "kohya"),
    ("sd15_lycoris_loha_tucker", SD15, 354, "kohya"),
    ("sd15_lycoris_lokr", SD15, 354, "kohya"),
    ("sd15_lycoris_lokr_full", SD15, 354, "kohya"),
    ("sd15_lycoris_lokr_both_tucker", SD15, 354, "kohya"),
    ("sd15_lycoris_dylora", SD15, 354, "kohya"),
    ("sd15_kohya_dylora_sdscripts", SD15, 264, "kohya"),
    ("sd15_kohya_lorafa_sdscripts", SD15, 264, "kohya"),
    ("sd15_peft_dora_lorabias", SD15, 144, "peft"),
    ("sd15_peft_loha", SD15, 172, "peft"),
    ("sd15_peft_adalora", SD15, 64, "peft"),
    ("sd15_peft_oft", SD15, 96, "peft"),
    ("flux_kohya_oft_sdscripts", FLUX, 76, "kohya"),
    ("sd15_lycoris_diagoft", SD15, 354, "kohya"),
    ("sd15_lycoris_boft", SD15, 192, "kohya"),
    ("sdxl_kohya_oft_sdscripts", SDXL, 560, "kohya"),
    ("sdxl_kohya_lora_sdscripts", SDXL, 986, "kohya"),
    ("sdxl_kohya_dora_larsupb", SDXL, 722, "kohya"),
    ("sdxl_lycoris_lokr", SDXL, 1052, "kohya"),
    ("sdxl_lycoris_lokr_inspector", SDXL, 1052, "kohya"),
    ("sdxl_lycoris_loha_inspector", SDXL, 1052, "kohya"),
    ("sdxl_kohya_locon_sdscripts", SDXL, 1052, "kohya"),
    ("sdxl_kohya_lcm_rank1_muchai", SDXL, 788, "kohya"),
    ("sdxl_kohya_from_diffusers_converter", SDXL, 560, "kohya"),
    ("sdxl_diffusers_unet_lora_down", SDXL, 560, "diffusers"),
    ("sdxl_diffusers_attnprocs_unet", SDXL, 560, "diffusers"),
    ("sdxl_diffusers_te_lora_linear_layer", SDXL, 264, "diffusers"),
    ("flux_kohya_invoke", FLUX, 304, "kohya"),
    ("flux_kohya_lora_te1_te3_sdscripts", FLUX, 552, "kohya"),
    ("flux_diffusers_AB", FLUX, 495, "diffusers"),
    ("flux_diffusers_invoke", FLUX, 494, "diffusers"),
    ("flux_diffusers_noprojmlp_invoke", FLUX, 342, "diffusers"),
    ("flux_aitoolkit_invoke", FLUX, 228, "comfy"),
    ("flux_onetrainer_dora_invoke", FLUX, 506, "kohya"),
    ("flux_peft_basemodel_invoke", FLUX, 381, "peft"),
    ("flux_simpletuner_lycoris_lokr_full", FLUX, 152, "lycoris"),
    ("chroma_diffusers_AB", ("chroma_comfy",), 190, "diffusers"),
    ("flux2_diffusers_AB", ("flux2_dev_comfy",), 128, "diffusers"),
    ("flux2_kohya_musubi", ("flux2_dev_comfy",), 160, "kohya"),
    ("sd3m_diffusers_AB", SD3, 285, "diffusers"),
    ("sd3_kohya_lora_te123_sdscripts", SD3, 669, "kohya"),
    ("sd3_flash_peft_basemodel", SD3, 285, "peft"),
    ("sd35l_diffusers_AB", ("sd35_large_comfy",), 303, "diffusers"),
    ("sd35m_kohya_lora_sdscripts", ("sd35_medium_comfy", "sd3_clip_comfy"), 527, "kohya"),
    ("wan_t2v_kohya_musubi", ("wan21_t2v_14b_comfy",), 400, "kohya"),
    ("wan_t2v_diffusers_AB", ("wan21_t2v_14b_comfy",), 400, "diffusers"),
    ("wan_i2v_kohya_musubi", ("wan21_i2v_14b_comfy",), 480, "kohya"),
    ("wan22_diffusionmodel_larsupb", ("wan21_t2v_14b_comfy",), 400, "comfy"),
    ("hunyuan_video_kohya_musubi", ("hunyuan_video_comfy",), 240, "kohya"),
    ("hunyuan_video_native_diffusionpipe_AB", ("hunyuan_video_comfy",), 320, "diffusers"),
    ("qwen_image_kohya_musubi", ("qwen_image_comfy",), 840, "kohya"),
    ("qwen_image_diffusers_AB", ("qwen_image_comfy",), 840, "diffusers"),
    ("qwen_lightning_muchai", ("qwen_image_comfy",), 720, "kohya"),
    ("zimage_kohya_musubi", ("zimage_comfy",), 210, "kohya"),
    ("zimage_diffusers_AB", ("zimage_comfy",), 238, "diffusers"),
    ("zimage_aitoolkit_larsupb", ("zimage_comfy",), 240, "comfy"),
    ("ltxv_diffusers_AB", ("ltxv_2b_comfy",), 280, "diffusers"),
    ("krea2_kohya_invoke", ("krea2_comfy",), 40, "kohya"),
    ("auraflow_diffusers_AB", ("auraflow_comfy",), 144, "diffusers"),
)


@pytest.mark.parametrize(("name", "model", "layers", "dialect"), COMPLETE)
def test_every_key_of_a_list_is_matched(
    name: str, model: tuple[str, ...], layers: int, dialect: str, tmp_path: Path
) -> None:
    report = inspect_file(_key_list(name, tmp_path), model_layout(*model))
    assert (report.layers, len(report.matched), report.dialect) == (layers, len(read_list(name)), dialect)
    assert (len(report.ignored), len(report.unmatched)) == (0, 0)


@pytest.mark.parametrize(("name", "model", "layers", "dialect"), COMPLETE)
def test_every_key_of_a_list_makes_a_complete_layer_also_without_a_model(
    name: str, model: tuple[str, ...], layers: int, dialect: str, tmp_path: Path
) -> None:
    report = inspect_file(_key_list(name, tmp_path))
    assert (report.layers, len(report.matched)) == (layers, len(read_list(name)))


@pytest.mark.parametrize("name", ["sd15_kohya_lora_sdscripts", "sd15_lycoris_locon_tucker", "sd15_lycoris_locon_norm"])
def test_loading_a_whole_file_gives_the_same_account_as_its_header(name: str, tmp_path: Path) -> None:
    path = write_list(name, tmp_path / "a.safetensors")
    loaded = load(path, model_layout(*SD15))
    looked_at = inspect_file(open_file_or_key_list(path), model_layout(*SD15))
    assert loaded.report.as_json() == looked_at.as_json()
    assert len({placed.place for placed in loaded.adapters}) == loaded.report.layers


def test_the_projections_that_all_layers_of_vera_share_are_told_apart_from_its_layers(tmp_path: Path) -> None:
    report = inspect_file(_key_list("sd15_peft_vera", tmp_path), model_layout(*SD15))
    assert (report.layers, len(report.matched), len(report.unmatched)) == (32, 64, 0)
    assert [note.key for note in report.ignored] == ["base_model.vera_A", "base_model.vera_B"]
    assert report.algorithms == {"VeRA": 32}


def test_text_encoder_keys_are_ignored_with_the_reason_when_no_clip_is_connected(tmp_path: Path) -> None:
    report = inspect_file(_key_list("sdxl_kohya_lora_sdscripts", tmp_path), model_layout("sdxl_unet_comfy"))
    assert (report.layers, len(report.ignored), len(report.unmatched)) == (722, 792, 0)
    assert {note.reason for note in report.ignored} == {"for a text encoder; no CLIP is connected"}


def test_keys_for_the_second_text_encoder_are_ignored_when_the_clip_has_only_one(tmp_path: Path) -> None:
    report = inspect_file(
        _key_list("sdxl_kohya_lora_sdscripts", tmp_path), model_layout("sdxl_unet_comfy", "sd15_clip_comfy")
    )
    assert {note.reason for note in report.ignored} == {"for a text encoder that this CLIP does not have"}
    assert not report.unmatched


@pytest.mark.parametrize(
    ("name", "model", "families"),
    [
        ("sdxl_kohya_lora_sdscripts", "sd15_unet_comfy", ("SDXL", "SD1.5")),
        ("sd15_kohya_lora_sdscripts", "sdxl_unet_comfy", ("SD1.5", "SDXL")),
        ("sd15_diffusers_unet_lora_AB", "sd21_unet_comfy", ("SD1.5", "SD2")),
        ("flux_diffusers_AB", "sd15_unet_comfy", ("Flux.1", "SD1.5")),
        ("wan_t2v_kohya_musubi", "flux1_dev_comfy", ("Wan", "Flux.1")),
    ],
)
def test_a_file_for_another_family_is_refused_and_both_are_named(
    name: str, model: str, families: tuple[str, str], tmp_path: Path
) -> None:
    layout = model_layout(model)
    with pytest.raises(FamilyMismatch) as caught:
        load_lora(_key_list(name, tmp_path), layout, NameTable(layout))
    assert (caught.value.file_family, caught.value.model_family) == families
    assert all(family in str(caught.value) for family in families)


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("sd15_unet_comfy", "SD1.5"),
        ("sd21_unet_comfy", "SD2"),
        ("sdxl_unet_comfy", "SDXL"),
        ("sdxl_refiner_unet_comfy", "the SDXL refiner"),
        ("flux1_dev_comfy", "Flux.1"),
        ("flux2_dev_comfy", "Flux.2"),
        ("chroma_comfy", "Chroma"),
        ("sd3_medium_comfy", "SD3"),
        ("wan21_t2v_1_3b_comfy", "Wan"),
        ("hunyuan_video_comfy", "HunyuanVideo"),
        ("qwen_image_comfy", "Qwen-Image"),
        ("zimage_comfy", "Z-Image"),
        ("lumina2_comfy", "Lumina2"),
        ("ltxv_2b_comfy", "LTX-Video"),
        ("auraflow_comfy", "AuraFlow"),
        ("pixart_sigma_comfy", "PixArt"),
        ("flux2_klein9b_block0_invoke", "Flux.2"),
        ("wan21_vace_comfy", "Wan"),
        ("ltx2_comfy", "LTX-2"),
        ("anima_comfy", "Anima"),
        ("krea2_comfy", "Krea 2"),
        ("kandinsky5_comfy", "Kandinsky 5"),
        ("ace_step15_comfy", "ACE-Step 1.5"),
        ("hidream_comfy", "HiDream"),
    ],
)
def test_the_family_of_a_model_is_told_from_its_layers(base: str, family: str) -> None:
    assert model_layout(base).family.name == family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("sd15_kohya_lora_sdscripts", "SD1.5"),
        ("sdxl_kohya_lora_sdscripts", "SDXL"),
        ("sdxl_diffusers_unet_lora_down", "SDXL"),
        ("flux_kohya_invoke", "Flux.1"),
        ("flux_diffusers_AB", "Flux.1"),
        ("sd3m_diffusers_AB", "SD3"),
        ("wan_t2v_kohya_musubi", "Wan"),
        ("qwen_image_kohya_musubi", "Qwen-Image"),
        ("zimage_diffusers_AB", "Z-Image"),
        ("ltxv_diffusers_AB", "LTX-Video"),
        ("hunyuan_video_kohya_musubi", "HunyuanVideo"),
        ("flux2_kohya_musubi", "Flux.2"),
        ("flux2_diffusers_AB", "Flux.2"),
        ("auraflow_diffusers_AB", "AuraFlow"),
        ("krea2_kohya_invoke", "Krea 2"),
    ],
)
def test_the_family_of_a_file_is_told_from_its_keys(name: str, family: str, tmp_path: Path) -> None:
    assert inspect_file(_key_list(name, tmp_path)).file_family.name == family


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("flux1_dev", "Flux.1"),
        ("flux2_dev", "Flux.2"),
        ("hunyuan_video", "HunyuanVideo"),
        ("sd3_medium", "SD3"),
        ("auraflow", "AuraFlow"),
        ("pixart_sigma", "PixArt"),
        ("wan21_t2v_14b", "Wan"),
        ("ltxv_2b", "LTX-Video"),
        ("ltx2", "LTX-2"),
        ("lumina2", "Lumina2"),
        ("zimage", "Z-Image"),
        ("qwen_image", "Qwen-Image"),
        ("krea2", "Krea 2"),
        ("ace_step15", "ACE-Step 1.5"),
    ],
)
def test_the_family_is_also_told_from_the_names_of_diffusers(base: str, family: str) -> None:
    assert model_layout(f"{base}_diffusers").family.name == family


@pytest.mark.parametrize(
    ("base", "recorded"),
    [
        ("sd15_unet_comfy", "map_sd15"),
        ("sd21_unet_comfy", "map_sd21"),
        ("sdxl_unet_comfy", "map_sdxl"),
        ("sdxl_refiner_unet_comfy", "map_sdxl_refiner"),
    ],
)
def test_diffusers_names_agree_with_a_map_made_by_another_project(base: str, recorded: str) -> None:
    paths = [target.inner for target in model_layout(base).targets.values()]
    ours = {name.inner: name.name for name in diffusers_names(paths)}
    theirs = {
        ldm.removeprefix("model.diffusion_model.").removesuffix(".weight"): name.removeprefix("unet_").removesuffix(
            ".weight"
        )
        for ldm, name in read_list(recorded).items()
        if ldm.endswith(".weight")
    }
    assert ours == theirs


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_layer_of_the_diffusers_model_has_a_place_in_the_hosts(family: str) -> None:
    table = NameTable(model_layout(f"{family}_unet_comfy"))
    layers = [
        key.removesuffix(".weight") for key in read_list(f"base_{family}_unet_diffusers") if key.endswith(".weight")
    ]
    found = {layer: table.find(f"unet.{layer}") for layer in layers}
    assert not [layer for layer, place in found.items() if isinstance(place, str)]
    assert len({place[0][0].path for place in found.values() if not isinstance(place, str)}) == len(layers)


def test_each_layer_is_reached_by_one_name_of_the_file_only() -> None:
    key_map = map_keys(read_list("sdxl_kohya_lora_sdscripts"), NameTable(model_layout(*SDXL)))
    paths = [layer.places[0].path for layer in key_map.layers]
    assert len(set(paths)) == len(paths)


def _key_list(name: str, folder: Path) -> LoraFile:
    """A recorded list in the place of a file."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(read_list(name)))
    return open_file_or_key_list(path)
