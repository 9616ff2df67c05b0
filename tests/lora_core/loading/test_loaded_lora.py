"""A file is assembled layer by layer: what fits is built exactly, what does not is told with its reason."""

from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import LoadedLora, NoLayerReached, UnmatchedKeys
from lora_pack.lora_core.adapters import LowRank
from torch import Tensor

from ..adapter_files import load, pair, tiny_layout, write_adapter

PROJ_IN = "lora_unet_down_blocks_0_attentions_0_proj_in"  # [6, 4, 1, 1]
TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"  # [6, 768]
CONV1 = "lora_unet_down_blocks_0_resnets_0_conv1"  # [6, 4, 3, 3]
FC1 = "lora_te_text_model_encoder_layers_0_mlp_fc1"  # [8, 4]
KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def _delta(lora: LoadedLora, path: str = KEY) -> Tensor:
    return next(placed.adapter.delta() for placed in lora.adapters if placed.place.path == path)


def _load(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> LoadedLora:
    return load(write_adapter(path, tensors, metadata), tiny_layout())


def _reasons(lora: LoadedLora) -> set[str]:
    return {note.reason.split(":")[0] for note in lora.report.unmatched}


def test_a_delta_is_scale_times_up_times_down(path: Path) -> None:
    tensors = pair(TO_K, 6, 768, rank=2, alpha=3.0)
    expected = 1.5 * tensors[f"{TO_K}.lora_up.weight"].double() @ tensors[f"{TO_K}.lora_down.weight"].double()
    assert torch.allclose(_delta(_load(path, tensors)).double(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_factors_of_any_dtype_are_multiplied_in_float32(path: Path, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in pair(TO_K, 6, 768).items()}
    up, down = tensors[f"{TO_K}.lora_up.weight"].double(), tensors[f"{TO_K}.lora_down.weight"].double()
    delta = _delta(_load(path, tensors))
    assert delta.dtype == torch.float32
    assert torch.allclose(delta.double(), up @ down, atol=1e-5)


def test_matrices_stored_as_1x1_convolutions_fit_a_linear_layer_and_the_other_way_round(path: Path) -> None:
    flat, conv = pair(TO_K, 6, 768), pair(PROJ_IN, 6, 4)
    stored = {key: tensor[:, :, None, None] for key, tensor in flat.items()} | conv
    lora = _load(path, stored)
    expected = flat[f"{TO_K}.lora_up.weight"] @ flat[f"{TO_K}.lora_down.weight"]
    assert torch.allclose(_delta(lora), expected, atol=1e-5)
    assert _delta(lora, "diffusion_model.input_blocks.1.1.proj_in").shape == (6, 4, 1, 1)


def test_a_convolution_with_a_middle_tensor_is_the_tucker_product(path: Path) -> None:
    up, mid, down = torch.randn(6, 2, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(2, 4, 1, 1)
    lora = _load(
        path, {f"{CONV1}.lora_up.weight": up, f"{CONV1}.lora_mid.weight": mid, f"{CONV1}.lora_down.weight": down}
    )
    wide = [tensor.double() for tensor in (up[:, :, 0, 0], mid, down[:, :, 0, 0])]
    expected = torch.einsum("om,mnhw,ni->oihw", *wide)
    assert torch.allclose(_delta(lora, "diffusion_model.input_blocks.1.0.in_layers.2").double(), expected, atol=1e-5)
    assert lora.report.algorithms == {"LoCon (Tucker)": 1}


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strength", [-1.0, 0.5, 2.0])
def test_adding_in_place_equals_the_weight_plus_strength_times_delta(
    path: Path, weight_dtype: torch.dtype, strength: float
) -> None:
    lora = _load(path, pair(TO_K, 6, 768, alpha=1.0))
    weight = torch.randn(6, 768).to(weight_dtype)
    expected = weight.double() + strength * _delta(lora).double()
    changed = weight.clone()
    lora.adapters[0].adapter.add_delta_(changed, strength)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[weight_dtype]
    assert torch.allclose(changed.double(), expected, atol=tolerance)


def test_adding_to_rows_of_a_larger_weight_leaves_the_other_rows(path: Path) -> None:
    adapter = _load(path, pair(TO_K, 6, 768)).adapters[0].adapter
    weight = torch.zeros(10, 768)
    adapter.add_delta_(weight.narrow(0, 2, 6), 1.0)
    assert torch.allclose(weight[2:8], adapter.delta(), atol=1e-6)
    assert not weight[:2].any() and not weight[8:].any()


def test_an_adapter_rebuilt_on_copies_of_its_tensors_is_the_same(path: Path) -> None:
    adapter = _load(path, pair(TO_K, 6, 768, alpha=1.0)).adapters[0].adapter
    assert isinstance(adapter, LowRank)
    rebuilt = adapter.with_tensors(tuple(tensor.clone() for tensor in adapter.tensors()))
    assert torch.equal(rebuilt.delta(), adapter.delta())


def test_a_layer_of_another_shape_is_left_out_and_both_shapes_are_told(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768) | pair(PROJ_IN, 5, 4))
    assert lora.report.layers == 1
    reason = lora.report.unmatched[0].reason
    assert "[6, 4, 1, 1]" in reason and "[5, 2]" in reason


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_with_numbers_that_are_not_finite_is_left_out(path: Path, bad: float, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in (pair(TO_K, 6, 768) | pair(PROJ_IN, 6, 4)).items()}
    tensors[f"{PROJ_IN}.lora_up.weight"][3, 1] = bad
    lora = _load(path, tensors)
    assert lora.report.layers == 1
    assert {note.reason for note in lora.report.unmatched} == {
        f"'{PROJ_IN}.lora_up.weight' holds NaN or infinite numbers"
    }


def test_an_alpha_that_is_not_finite_leaves_its_layer_out(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768) | pair(PROJ_IN, 6, 4, alpha=float("inf")))
    assert lora.report.layers == 1


def test_alpha_0_gives_a_dead_layer_and_a_note(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768, alpha=0.0))
    assert not _delta(lora).any()
    assert list(lora.report.notes) == ["alpha is 0 in 1 layers, so these do nothing"]


def test_rank_0_is_left_out(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768, rank=0) | pair(PROJ_IN, 6, 4))
    assert _reasons(lora) == {"rank 0 or no matrix"}


@pytest.mark.parametrize("missing", ["lora_up.weight", "lora_down.weight"])
def test_half_a_pair_is_left_out(path: Path, missing: str) -> None:
    tensors = pair(TO_K, 6, 768) | pair(PROJ_IN, 6, 4)
    del tensors[f"{PROJ_IN}.{missing}"]
    assert _reasons(_load(path, tensors)) == {"incomplete"}


def test_an_algorithm_that_is_not_supported_is_named_and_not_applied_as_another(path: Path) -> None:
    tensors = pair(TO_K, 6, 768) | pair(PROJ_IN, 6, 4) | {f"{PROJ_IN}.gralora_A": torch.ones(2, 3, 3)}
    lora = _load(path, tensors)
    assert lora.report.layers == 1
    assert {note.reason for note in lora.report.unmatched} == {"algorithm not supported yet: gralora"}


def test_matrices_of_two_algorithms_on_one_layer_are_not_applied(path: Path) -> None:
    tensors = pair(TO_K, 6, 768) | pair(PROJ_IN, 6, 4) | {f"{PROJ_IN}.oft_diag": torch.ones(2, 3, 3)}
    lora = _load(path, tensors)
    assert lora.report.layers == 1
    assert {note.reason for note in lora.report.unmatched} == {"parameters of two algorithms: LoRA, OFT"}


def test_two_names_for_one_layer_are_a_conflict_and_applied_once(path: Path) -> None:
    other = KEY
    first, second = pair(TO_K, 6, 768), pair(other, 6, 768)
    lora = _load(path, first | second)
    assert lora.report.layers == 1
    assert len(lora.report.unmatched) == 2
    assert _reasons(lora) == {"conflict"}


def test_a_nearest_name_is_told_for_a_misspelled_layer(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768) | pair(PROJ_IN.replace("proj_in", "proj_inn"), 6, 4))
    assert lora.report.unmatched[0].nearest == "down_blocks.0.attentions.0.proj_in"


def test_peft_adapter_names_of_any_kind_are_taken_out(path: Path) -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    plain = pair(TO_K, 6, 768)
    tensors = {
        f"{name}.lora_A.my_style.weight": plain[f"{TO_K}.lora_down.weight"],
        f"{name}.lora_B.my_style.weight": plain[f"{TO_K}.lora_up.weight"],
    }
    assert _load(path, tensors).report.layers == 1


def test_text_encoder_layers_are_reached_with_the_clip_at_hand(path: Path) -> None:
    lora = _load(path, pair(FC1, 8, 4))
    assert [placed.part for placed in lora.adapters] == ["clip_l"]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", None),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q", "text encoder that this CLIP"),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.9.mlp.fc1", "no layer of this name"),
    ],
)
def test_the_hosts_own_names_of_text_encoders_reach_or_tell(path: Path, layer: str, reason: str | None) -> None:
    report = _load(path, pair(layer, 8, 4)).report
    notes = [*report.ignored, *report.unmatched]
    assert bool(report.layers) == (reason is None)
    assert all(reason in note.reason for note in notes if reason)


def test_rubbish_of_ten_thousand_keys_is_accounted_for_and_refused(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 1 << 40, (10_000,), generator=generator).tolist()
    tensors = {f"down_blocks.{number % 7}.thing_{number}.{number % 5}": torch.zeros(1) for number in numbers}
    lora = _load(path, tensors)
    assert len(lora.report.unmatched) == lora.report.keys == len(tensors)
    with pytest.raises(NoLayerReached, match=r"and \d+ more"):
        lora.report.require_any()


def test_a_file_without_tensors_reaches_nothing(path: Path) -> None:
    with pytest.raises(NoLayerReached):
        _load(path, {}).report.require_any()


def test_keys_that_fit_nothing_are_an_error_when_all_are_required(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768) | pair("lora_unet_nothing", 6, 4))
    lora.report.require_any()
    with pytest.raises(UnmatchedKeys, match="2 of 4 keys"):
        lora.report.require_complete()


def test_bookkeeping_keys_are_ignored_with_the_reason(path: Path) -> None:
    lora = _load(path, pair(TO_K, 6, 768) | {"_aux.step": torch.zeros(1)})
    assert [note.key for note in lora.report.ignored] == ["_aux.step"]
    lora.report.require_complete()


def test_the_text_of_a_report_lists_twenty_keys_and_counts_the_rest(path: Path) -> None:
    tensors = pair(TO_K, 6, 768) | {f"rubbish{number}": torch.zeros(1) for number in range(50)}
    text = _load(path, tensors).report.text()
    assert "and 30 more" in text
    assert "52 of" not in text and "of 52 keys" in text
