"""Keys of the rarer dialects find their layer, or the reason why they have none."""

import json
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import ModelLayout, NameTable, NotAnAdapter, list_targets
from lora_pack.lora_core.adapters import FullDelta, LowRank
from lora_pack.lora_core.names.key_map import parse_key
from torch import Tensor

from ..adapter_files import load, model_layout, read_list, tiny_layout, write_adapter

TO_K = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
TO_K_DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SPLIT = {  # a block that keeps q, k, v apart, with a grouped k and v
    "diffusion_model.blocks.0.attn.to_q.weight": (6, 4),
    "diffusion_model.blocks.0.attn.to_k.weight": (2, 4),
    "diffusion_model.blocks.0.attn.to_v.weight": (2, 4),
    **{f"diffusion_model.blocks.0.attn.to_{name}.bias": (rows,) for name, rows in (("q", 6), ("k", 2), ("v", 2))},
}
LANGUAGE_MODEL = {
    "qwen3_06b.transformer.model.layers.0.self_attn.q_proj.weight": (8, 4),
    "diffusion_model.blocks.0.mlp.weight": (4, 4),
}


def _pair(layer: str, out: int, inputs: int, rank: int = 2) -> dict[str, Tensor]:
    return {f"{layer}.lora_A.weight": torch.randn(rank, inputs), f"{layer}.lora_B.weight": torch.randn(out, rank)}


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.",
        "base_model.model.unet.",
        "base_model.model.diffusion_model.",
        "unet.base_model.model.",
        "transformer.base_model.model.",
        "unet.",
        "transformer.",
        "transformer_2.",
        "pipe.dit.",
        "net.",
        "diffusion_model.",
        "model.diffusion_model.",
        "",
    ],
)
@pytest.mark.parametrize("name", [TO_K, TO_K_DIFFUSERS])
def test_a_dotted_name_is_found_behind_every_prefix(prefix: str, name: str) -> None:
    found = NameTable(tiny_layout()).find(prefix + name)
    assert not isinstance(found, str)
    assert [place.path for place in found[0]] == [f"diffusion_model.{TO_K}"]


@pytest.mark.parametrize(
    "prefix",
    [
        "lora_unet_",
        "lora_unet__",
        "lora_transformer_",
        "lora_prior_unet_",
        "lycoris_",
        "oft_unet_",
        "Hunyuan_video_lora_",
        "Hunyuan_video_I2V_lora_",
    ],
)
def test_an_underscored_name_is_found_behind_every_prefix(prefix: str) -> None:
    found = NameTable(tiny_layout()).find(prefix + TO_K.replace(".", "_"))
    assert not isinstance(found, str)
    assert [place.path for place in found[0]] == [f"diffusion_model.{TO_K}"]


@pytest.mark.parametrize(
    ("key", "parameter"),
    [
        ("a.b.lora_A.weight", ".lora_A.weight"),
        ("a.b.lora_A.any-name_1.weight", ".lora_A.weight"),
        ("a.b.lora_B.default_0.bias", ".lora_B.bias"),
        ("a.b.lora_magnitude_vector.default.weight", ".lora_magnitude_vector.weight"),
        ("a.b.lora_magnitude_vector.default", ".lora_magnitude_vector"),
        ("a.b.vera_lambda_b.style", ".vera_lambda_b"),
        ("a.b.ia3_l.default", ".ia3_l"),
        ("a.b.lora_E.default", ".lora_E"),
        ("a.b.oft_R.default.weight", ".oft_R.weight"),
        ("a.b.hada_w1_a.default", ".hada_w1_a"),
        ("a.b.lokr_w2_b.default", ".lokr_w2_b"),
        ("unet:12:up", ":up"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", ".down.weight"),
        ("a.attn1.processor.to_q_lora.down.weight", "_lora.down.weight"),
    ],
)
def test_the_parameter_is_told_from_the_layer_and_the_adapters_name(key: str, parameter: str) -> None:
    parsed = parse_key(key)
    assert parsed is not None
    assert parsed.parameter.text == parameter


def test_numbered_layers_are_the_linear_layers_of_attentions_in_their_order(tmp_path: Path) -> None:
    """The recorded file's shapes tell the order: q, k, v, out, GEGLU, then the attention that reads text."""
    tensors = {
        key: torch.ones(shape)
        for key, (_, shape) in read_list("sd15_cloneofsimo_pti_embeds").items()
        if not key.startswith("<")
    }
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), model_layout("sd15_unet_comfy", "sd15_clip_comfy"))
    assert (lora.report.layers, lora.report.dialect, list(lora.report.unmatched)) == (192, "cloneofsimo", [])
    places = {placed.place.path: placed.adapter for placed in lora.adapters}
    first = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
    assert f"{first}.attn1.to_q" in places
    assert not any(".ff.net.2" in path for path in places)


def test_numbered_layers_of_another_count_are_not_guessed(tmp_path: Path) -> None:
    keys = [key for key in read_list("sd15_cloneofsimo_pti_embeds") if key.startswith("unet:")]
    tensors = {key: torch.ones(2, 2) for key in keys if not key.startswith("unet:143:")}
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), model_layout("sd15_unet_comfy")).report
    assert (report.layers, len(report.unmatched)) == (0, 286)
    assert all("the file counts 143" in note.reason for note in report.unmatched)


@pytest.mark.parametrize(("name", "members"), [("to_qkv", "qkv"), ("to_kv", "kv")])
def test_a_layer_that_the_file_fuses_is_split_over_the_models_layers(tmp_path: Path, name: str, members: str) -> None:
    paths = [f"diffusion_model.blocks.0.attn.to_{member}" for member in members]
    out = sum(SPLIT[f"{path}.weight"][0] for path in paths)
    layer = f"diffusion_model.blocks.0.attn.{name}"
    down, up, bias = torch.randn(2, 4), torch.randn(out, 2), torch.randn(out)
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.lora_B.bias": bias}
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), list_targets(SPLIT))
    found = {placed.target: placed.adapter.delta_of(torch.zeros(SPLIT[placed.target])) for placed in lora.adapters}
    assert torch.allclose(torch.cat([found[f"{path}.weight"] for path in paths]), up @ down, atol=1e-6)
    assert torch.equal(torch.cat([found[f"{path}.bias"] for path in paths]), bias)
    assert all(isinstance(placed.adapter, LowRank | FullDelta) for placed in lora.adapters)


def test_a_fused_rotation_can_not_be_split_and_says_so(tmp_path: Path) -> None:
    tensors = {"lora_unet_blocks_0_attn_to_qkv.oft_blocks": torch.zeros(5, 2, 2)}
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), list_targets(SPLIT)).report
    assert "mixes their rows" in report.unmatched[0].reason


def test_magnitudes_of_a_fused_layer_are_split_by_rows(tmp_path: Path) -> None:
    layer = "diffusion_model.blocks.0.attn.to_qkv"
    tensors = _pair(layer, 10, 4) | {f"{layer}.lora_magnitude_vector": torch.rand(10) + 0.5}
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), list_targets(SPLIT))
    weight = torch.randn(10, 4)
    changed = weight + tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
    expected = changed * (tensors[f"{layer}.lora_magnitude_vector"] / changed.norm(dim=1))[:, None]
    found = [p.adapter.delta_of(part) + part for p, part in zip(lora.adapters, weight.split([6, 2, 2]), strict=True)]
    assert torch.allclose(torch.cat(found), expected, atol=1e-6)


def test_a_module_that_peft_saved_whole_takes_the_place_of_the_models(tmp_path: Path) -> None:
    tensors = _pair(f"base_model.model.{TO_K}", 6, 768)
    tensors["base_model.model.input_blocks.1.1.proj_in.weight"] = torch.randn(6, 4, 1, 1)
    tensors["base_model.model.input_blocks.1.1.proj_in.bias"] = torch.randn(6)
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout())
    changed = {p.target: p.adapter for p in lora.adapters if "proj_in" in p.target}
    for end in ("weight", "bias"):
        whole = tensors[f"base_model.model.input_blocks.1.1.proj_in.{end}"]
        old = torch.randn(whole.shape)
        new = old.clone()
        changed[f"diffusion_model.input_blocks.1.1.proj_in.{end}"].add_delta_(new, 1.0)
        assert torch.allclose(new, whole, atol=1e-6)


def test_a_whole_checkpoint_is_no_adapter(tmp_path: Path) -> None:
    tensors = {"diffusion_model.input_blocks.1.1.proj_in.weight": torch.randn(6, 4, 1, 1)}
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout()).report
    assert report.layers == 0
    assert "no adapter" in report.unmatched[0].reason


@pytest.mark.parametrize("end", ["scale", "weight"])
def test_a_norm_stored_whole_beside_adapters_replaces_the_models_whatever_its_name(tmp_path: Path, end: str) -> None:
    norm, lin = "double_blocks.0.img_attn.norm.key_norm", "double_blocks.0.img_mod.lin"
    shapes = {f"diffusion_model.{norm}.{end}": (4,), f"diffusion_model.{lin}.weight": (4, 4)}
    tensors = {f"{norm}.scale": torch.randn(4)} | _pair(lin, 4, 4)
    lora = load(write_adapter(tmp_path / "a.safetensors", tensors), list_targets(shapes))
    (placed,) = [p for p in lora.adapters if "norm" in p.target]
    assert placed.target == f"diffusion_model.{norm}.{end}"
    weight = torch.randn(4)
    placed.adapter.add_delta_(weight, 1.0)
    assert torch.allclose(weight, tensors[f"{norm}.scale"], atol=1e-6)


def test_a_bare_parameter_of_the_model_is_reached_by_its_name(tmp_path: Path) -> None:
    shapes = {"diffusion_model.blocks.0.modulation": (1, 6, 4), "diffusion_model.blocks.0.ffn.0.weight": (4, 4)}
    difference = torch.randn(1, 6, 4)
    path = write_adapter(tmp_path / "a.safetensors", {"diffusion_model.blocks.0.modulation.diff": difference})
    (placed,) = load(path, list_targets(shapes)).adapters
    assert placed.target == "diffusion_model.blocks.0.modulation"
    assert torch.equal(placed.adapter.delta_of(torch.zeros(1, 6, 4)), difference)


@pytest.mark.parametrize(
    "layer", ["lora_te_model_layers_0_self_attn_q_proj", "lora_te1_model_layers_0_self_attn_q_proj"]
)
def test_a_language_models_layers_are_reached_as_a_text_encoders(layer: str) -> None:
    found = NameTable(list_targets(LANGUAGE_MODEL)).find(layer)
    assert not isinstance(found, str)
    assert found[0][0].path == "qwen3_06b.transformer.model.layers.0.self_attn.q_proj"


def test_keys_of_a_first_text_encoder_never_land_on_the_second() -> None:
    layout = list_targets({"clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (8, 4)})
    assert isinstance(NameTable(layout).find("lora_te1_text_model_encoder_layers_0_mlp_fc1"), str)


@pytest.mark.parametrize("second", [f"transformer_2.{TO_K_DIFFUSERS}", f"transformer_2.{TO_K}"])
def test_keys_for_a_second_denoiser_are_ignored_beside_those_of_the_first(tmp_path: Path, second: str) -> None:
    tensors = _pair(f"transformer.{TO_K}", 6, 768) | _pair(second, 6, 768)
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout()).report
    assert (report.layers, len(report.ignored), len(report.unmatched)) == (1, 2, 0)
    assert "second denoiser" in report.ignored[0].reason


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("bundle_emb.ema yasuhara.clip_l", "embedding"),
        ("<s1>", "embedding"),
        ("scaled_fp8", "fp8"),
        ("_aux.step", "bookkeeping"),
    ],
)
def test_what_carries_no_adapter_is_ignored_with_its_reason(tmp_path: Path, key: str, reason: str) -> None:
    tensors = _pair(f"diffusion_model.{TO_K}", 6, 768) | {key: torch.zeros(2)}
    report = load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout()).report
    assert [(note.key, reason in note.reason) for note in report.ignored] == [(key, True)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_controlnet", "Control-LoRA"),
        (
            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
            "to_q_lora.down.weight",
            "motion LoRA",
        ),
        ("lora_unet_mid_block_attentions_0_proj_in.lambda_layer", "T-LoRA"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path: Path, key: str, kind: str) -> None:
    tensors = _pair(f"diffusion_model.{TO_K}", 6, 768) | {key: torch.zeros(2)}
    with pytest.raises(NotAnAdapter, match=kind):
        load(write_adapter(tmp_path / "a.safetensors", tensors), tiny_layout())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_file_whose_training_changed_the_base_model_is_refused(tmp_path: Path, start: str, beside: bool) -> None:
    metadata = None if beside else {"lora_adapter_metadata": f'{{"unet.init_lora_weights": "{start}"}}'}
    path = write_adapter(tmp_path / "a.safetensors", _pair(f"base_model.model.{TO_K}", 6, 768), metadata)
    if beside:
        path = path.rename(tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(f'{{"init_lora_weights": "{start}"}}')
    with pytest.raises(NotAnAdapter, match=start):
        load(path, tiny_layout())


@pytest.mark.parametrize("start", [True, "gaussian", "eva", "orthogonal"])
def test_other_ways_to_start_a_training_leave_a_plain_adapter(tmp_path: Path, start: object) -> None:
    path = write_adapter(tmp_path / "adapter_model.safetensors", _pair(f"base_model.model.{TO_K}", 6, 768))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"init_lora_weights": start}))
    assert load(path, tiny_layout()).report.layers == 1


def test_a_model_of_an_unknown_family_takes_its_own_names_and_the_report_says_so(tmp_path: Path) -> None:
    layout: ModelLayout = list_targets({"diffusion_model.stem.mixer.weight": (6, 4)})
    report = load(write_adapter(tmp_path / "a.safetensors", _pair("stem.mixer", 6, 4)), layout).report
    assert report.layers == 1
    assert any("not in the tables" in note for note in report.notes)


def test_an_embeddings_adapter_is_the_transposed_product(tmp_path: Path) -> None:
    layer = "base_model.model.text_model.embeddings.token_embedding"
    shapes = {"clip_l.transformer.text_model.embeddings.token_embedding.weight": (9, 4)}
    tensors = {f"{layer}.lora_embedding_A": torch.randn(2, 9), f"{layer}.lora_embedding_B": torch.randn(4, 2)}
    (placed,) = load(write_adapter(tmp_path / "a.safetensors", tensors), list_targets(shapes)).adapters
    expected = (tensors[f"{layer}.lora_embedding_B"] @ tensors[f"{layer}.lora_embedding_A"]).T
    assert torch.allclose(placed.adapter.delta_of(torch.zeros(9, 4)), expected, atol=1e-6)
