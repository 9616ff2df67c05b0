"""What no library at hand writes: kohya's OFT, A1111's scale, reshaped weights, magnitudes of trainers, any dtype."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import NameTable, list_targets, load_lora, open_lora
from lora_pack.lora_core.adapters import BadAdapter, LayerRows
from lora_pack.lora_core.adapters.row_order import SwappedHalves, take_rows
from lora_pack.lora_core.loading.inspection import inspect_file
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .reference_layers import (
    IN,
    KINDS,
    OUT,
    TorchLayer,
    check,
    load,
    load_some,
    make_input,
    make_layer,
    merged,
    randomise_,
    reason,
)

LAYER = "lora_unet_layer"
RANK = 4


def _pair(kind: str = "linear", alpha: float | None = 2.0) -> dict[str, Tensor]:
    kernel = tuple(make_layer(kind).weight.shape[2:])
    tensors = {
        f"{LAYER}.lora_down.weight": torch.zeros(RANK, IN, *kernel),
        f"{LAYER}.lora_up.weight": torch.zeros(OUT, RANK, *(1 for _ in kernel)),
    }
    randomise_(tensors)
    return tensors if alpha is None else tensors | {f"{LAYER}.alpha": torch.tensor(alpha)}


def _delta(tensors: Mapping[str, Tensor], shape: torch.Size, scale: float) -> Tensor:
    up, down = tensors[f"{LAYER}.lora_up.weight"].double(), tensors[f"{LAYER}.lora_down.weight"].double()
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(shape)


def kohya_turned(weight: Tensor, blocks: list[Tensor], alpha: float) -> Tensor:
    """The weight that sd-scripts 077f6a4f networks/oft_flux.py computes with, in float64: a part of the rows each."""
    parts: list[Tensor] = []
    start = 0
    for stored in blocks:
        count, size, _ = stored.shape
        rows = count * size
        skew = stored.double() - stored.double().transpose(1, 2)
        norm = skew.norm()
        skew = skew * ((norm.clamp(max=alpha * rows) + 1e-8) / (norm + 1e-8))
        one = torch.eye(size, dtype=torch.float64)
        rotation = (one + skew) @ (one - skew).inverse()
        run = weight[start : start + rows].double().reshape(count, size, -1)
        parts.append(torch.einsum("knm,knp->kmp", rotation, run).reshape(rows, *weight.shape[1:]))
        start += rows
    return torch.cat(parts)


def _operation(layer: nn.Module, weight: Tensor) -> nn.Module:
    other = make_layer(next(kind for kind, make in KINDS.items() if make().weight.shape == layer.weight.shape))
    other.weight.data.copy_(weight)
    return other


@pytest.mark.parametrize("alpha", [1, 1e-2])
@pytest.mark.parametrize("kind", KINDS)
def test_oft_of_kohya_turns_outputs_within_alpha_times_outputs(kind: str, alpha: float, tmp_path: Path) -> None:
    layer = make_layer(kind)
    tensors = {"oft_unet_layer.oft_blocks": torch.zeros(4, OUT // 4, OUT // 4)}
    randomise_(tensors)
    trained = _operation(layer, kohya_turned(layer.weight, list(tensors.values()), alpha))
    check(load(tensors | {"oft_unet_layer.alpha": torch.tensor(alpha)}, layer, tmp_path), layer, trained)


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (1, 1, 1, 5), (8,)], ids=str)
@pytest.mark.parametrize("alpha", [1, 1e-2])
def test_oft_of_flux_turns_each_part_of_a_fused_layer_by_itself(
    sizes: tuple[int, ...], alpha: float, tmp_path: Path
) -> None:
    layer = make_layer("linear")
    blocks = {f"oft_unet_layer.oft_blocks.{run}": torch.zeros(2, size, size) for run, size in enumerate(sizes)}
    randomise_(blocks)
    trained = _operation(layer, kohya_turned(layer.weight, list(blocks.values()), alpha))
    lora = load(blocks | {"oft_unet_layer.alpha": torch.tensor(alpha)}, layer, tmp_path)
    check(lora, layer, trained)
    adapter = lora.adapters[0].adapter
    copy = adapter.with_tensors(tuple(tensor.clone() for tensor in adapter.tensors()))
    assert torch.equal(copy.delta_of(layer.weight), adapter.delta_of(layer.weight))


def test_oft_of_flux_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    blocks = {f"oft_unet_layer.oft_blocks.{run}": torch.zeros(2, 4, 4) for run in (0, 2)}
    assert "missing between" in reason(blocks, make_layer("linear"), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_its_own_takes_the_place_of_alpha(kind: str, tmp_path: Path) -> None:
    layer = make_layer(kind)
    tensors = _pair(kind) | {f"{LAYER}.scale": torch.tensor([0.3])}
    trained = _operation(layer, layer.weight + _delta(tensors, layer.weight.shape, 0.3))
    check(load(tensors, layer, tmp_path), layer, trained)


def test_a_scale_of_its_own_holds_for_whole_lokr_matrices_too(tmp_path: Path) -> None:
    w1, w2 = torch.randn(4, 4), torch.randn(4, 6)
    tensors = {f"{LAYER}.lokr_w1": w1, f"{LAYER}.lokr_w2": w2, f"{LAYER}.scale": torch.tensor(0.5)}
    (placed,) = load(tensors, make_layer("linear"), tmp_path).adapters
    torch.testing.assert_close(placed.adapter.delta(), torch.kron(w1, w2) * 0.5)


def test_a_scale_without_matrices_is_told_to_be_no_adapter(tmp_path: Path) -> None:
    told = reason({f"{LAYER}.scale": torch.ones(OUT)}, make_layer("linear"), tmp_path)
    assert told == "a whole weight of the model, no adapter"


def test_a_reshaped_layer_is_applied_where_the_model_has_that_shape(tmp_path: Path) -> None:
    layer = make_layer("linear")
    tensors = _pair() | {f"{LAYER}.reshape_weight": torch.tensor([OUT, IN])}
    check(load(tensors, layer, tmp_path), layer, _operation(layer, layer.weight + _delta(tensors, (OUT, IN), 0.5)))


def test_a_layer_that_a_file_enlarges_is_padded_with_zeros_first(tmp_path: Path) -> None:
    layer = make_layer("linear")
    tensors = {
        f"{LAYER}.lora_down.weight": torch.randn(2, 2 * IN),
        f"{LAYER}.lora_up.weight": torch.randn(OUT, 2),
        f"{LAYER}.reshape_weight": torch.tensor([OUT, 2 * IN]),
    }
    (placed,) = load(tensors, layer, tmp_path).adapters
    weight = placed.adapter.room_for(layer.weight.detach().clone())
    placed.adapter.add_delta_(weight, 0.5)
    padded = torch.cat([layer.weight, torch.zeros(OUT, IN)], dim=1)
    expected = padded.double() + 0.5 * _delta(tensors, (OUT, 2 * IN), 1.0)
    torch.testing.assert_close(weight.double(), expected, atol=1e-5, rtol=0)
    assert placed.adapter.room_for(weight) is weight


def test_a_control_lora_of_flux_enlarges_the_layer_that_reads_the_picture(tmp_path: Path) -> None:
    shapes = {"diffusion_model.img_in.weight": (8, 4), "diffusion_model.single_blocks.0.norm.key_norm.weight": (4,)}
    tensors = {
        "img_in.lora_A.weight": torch.randn(2, 6),
        "img_in.lora_B.weight": torch.randn(8, 2),
        "single_blocks.0.norm.key_norm.scale": torch.randn(4),
    }
    layout = list_targets(shapes)
    save_file(tensors, tmp_path / "a.safetensors")
    lora = load_lora(open_lora(tmp_path / "a.safetensors"), layout, NameTable(layout))
    assert (lora.report.layers, len(lora.report.unmatched)) == (2, 0)
    assert any("enlarged from [8, 4] to [8, 6]" in note for note in lora.report.notes)


@pytest.mark.parametrize("shape", [[OUT, IN - 1], [OUT - 1, 2 * IN], [OUT, IN, 3]])
def test_a_reshaped_layer_is_refused_where_the_model_has_more(shape: list[int], tmp_path: Path) -> None:
    tensors = _pair() | {f"{LAYER}.reshape_weight": torch.tensor(shape)}
    assert str(shape) in reason(tensors, make_layer("linear"), tmp_path)


@pytest.mark.parametrize(("role", "parameter"), [("diff", "weight"), ("diff_b", "bias"), ("w_norm", "weight")])
def test_whole_differences_take_strength_alone(role: str, parameter: str, tmp_path: Path) -> None:
    layer = nn.LayerNorm(OUT) if role == "w_norm" else make_layer("linear")
    difference = torch.randn_like(getattr(layer, parameter))
    (placed,) = load({f"diffusion_model.layer.{role}": difference}, layer, tmp_path).adapters
    changed = torch.zeros_like(difference)
    placed.adapter.add_delta_(changed, -0.5)
    assert placed.parameter == parameter
    torch.testing.assert_close(changed, -0.5 * difference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_weight_is_reached_at_strength_1_and_half_way_at_a_half(kind: str, tmp_path: Path) -> None:
    layer = make_layer(kind)
    target = torch.randn_like(layer.weight)
    check(load({"diffusion_model.layer.set_weight": target}, layer, tmp_path), layer, _operation(layer, target))


MAGNITUDES = {
    "dora_scale [out, 1]": ("dora_scale", (OUT, 1)),
    "dora_scale [out]": ("dora_scale", (OUT,)),
    "dora_scale [out, 1, 1, 1]": ("dora_scale", (OUT, 1, 1, 1)),
    "dora_scale [1, in]": ("dora_scale", (1, IN)),
    "dora_scale [1, in, 1, 1]": ("dora_scale", (1, IN, 1, 1)),
    "lora_magnitude_vector [out]": ("lora_magnitude_vector", (OUT,)),
    "lora_magnitude_vector.weight [out]": ("lora_magnitude_vector.weight", (OUT,)),
    "lora_magnitude_vector [1, out, 1, 1]": ("lora_magnitude_vector", (1, OUT, 1, 1)),
    "lora_magnitude_vector [1, in]": ("lora_magnitude_vector", (1, IN)),
    "magnitude [out]": ("magnitude", (OUT,)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", MAGNITUDES)
def test_magnitudes_of_every_spelling_are_the_norms_of_the_trained_weight(case: str, kind: str, tmp_path: Path) -> None:
    name, shape = MAGNITUDES[case]
    layer = make_layer(kind)
    tensors = _pair(kind)
    magnitude = torch.linspace(0.5, 2.0, max(shape)).reshape(shape)
    changed = layer.weight.double() + _delta(tensors, layer.weight.shape, 0.5)
    axis = int(IN in shape)
    norms = changed.transpose(0, axis).flatten(1).norm(dim=1)
    sides = [1] * changed.dim()
    sides[axis] = -1
    trained = _operation(layer, changed * (magnitude.double().flatten() / norms).reshape(sides))
    check(load(tensors | {f"{LAYER}.{name}": magnitude}, layer, tmp_path), layer, trained)


def test_magnitudes_given_twice_are_refused(tmp_path: Path) -> None:
    tensors = _pair() | {f"{LAYER}.dora_scale": torch.ones(OUT, 1), f"{LAYER}.magnitude": torch.ones(OUT)}
    assert "twice" in reason(tensors, make_layer("linear"), tmp_path)


def test_magnitudes_with_an_algorithm_that_depends_on_the_weight_are_refused(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.oft_diag": torch.eye(4).repeat(4, 1, 1), f"{LAYER}.dora_scale": torch.ones(OUT, 1)}
    assert "magnitudes (DoRA) came with OFT" in reason(tensors, make_layer("linear"), tmp_path)


def test_a_row_of_zeros_stays_zero_under_dora(tmp_path: Path) -> None:
    layer = make_layer("linear")
    layer.weight.data[3] = 0
    tensors = _pair() | {f"{LAYER}.dora_scale": torch.ones(OUT, 1)}
    tensors[f"{LAYER}.lora_up.weight"][3] = 0
    (placed,) = load(tensors, layer, tmp_path).adapters
    changed = merged(placed.adapter, layer.weight, 1.0)
    assert torch.isfinite(changed).all() and not changed[3].any()


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
STORED: Mapping[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "LoRA": ("", {"lora_down.weight": (4, IN), "lora_up.weight": (OUT, 4)}),
    "DoRA": ("", {"lora_down.weight": (4, IN), "lora_up.weight": (OUT, 4), "dora_scale": (OUT, 1)}),
    "AdaLoRA": ("", {"lora_A": (4, IN), "lora_B": (OUT, 4), "lora_E": (4, 1)}),
    "LoHa": ("", {"hada_w1_a": (OUT, 2), "hada_w1_b": (2, IN), "hada_w2_a": (OUT, 2), "hada_w2_b": (2, IN)}),
    "LoKr": ("", {"lokr_w1": (4, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 6)}),
    "GLoRA": ("", {"a1.weight": (IN, 2), "a2.weight": (2, IN), "b1.weight": (OUT, 2), "b2.weight": (2, IN)}),
    "OFT": ("", {"oft_blocks": (4, 4, 4), "rescale": (OUT, 1)}),
    "OFT given": ("", {"oft_diag": (4, 4, 4)}),
    "OFT in runs": ("", {"oft_blocks.0": (2, 4, 4), "oft_blocks.1": (2, 4, 4)}),
    "OFT of inputs": ("", {"oft_R.weight": (6, 6)}),
    "BOFT": ("", {"oft_blocks": (2, 4, 4, 4)}),
    "BOFT of inputs": ("", {"boft_R": (1, 6, 4, 4), "boft_s": (OUT, 1)}),
    "IA3": ("", {"ia3_l": (OUT, 1)}),
    "difference": ("", {"diff": (OUT, IN), "diff_b": (OUT,)}),
    "replacement": ("", {"set_weight": (OUT, IN)}),
    "VeRA": ("", {"vera_lambda_b": (OUT,), "vera_lambda_d": (4,)}),
}


def _stored(name: str) -> dict[str, Tensor]:
    tensors = {f"{LAYER}.{key}": torch.zeros(shape) for key, shape in STORED[name][1].items()}
    if name == "VeRA":
        tensors |= {"base_model.vera_A": torch.zeros(4, IN + 8), "base_model.vera_B": torch.zeros(OUT + 8, 4)}
    randomise_(tensors)
    return tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STORED)
def test_stored_numbers_are_widened_before_any_product(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    layer, tensors = make_layer("linear"), _stored(name)
    rounded = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    (tmp_path / "wide").mkdir()
    ours = load(rounded, layer, tmp_path).adapters
    wide = load({key: tensor.float() for key, tensor in rounded.items()}, layer, tmp_path / "wide").adapters
    x = make_input(layer)
    frozen = TorchLayer(layer)
    for one, other in zip(ours, wide, strict=True):
        parameter = getattr(layer, one.parameter)
        assert torch.equal(merged(one.adapter, parameter, 1.0), merged(other.adapter, parameter, 1.0))
        if one.parameter == "weight":
            branches = [placed.adapter.branch(x, frozen.linear(x), frozen) for placed in (one, other)]
            torch.testing.assert_close(*branches, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", STORED)
def test_numbers_that_are_not_finite_refuse_the_layer(name: str, tmp_path: Path) -> None:
    tensors = _stored(name)
    for number, key in enumerate(tensors):
        folder = tmp_path / str(number)
        folder.mkdir()
        bad = dict(tensors)
        bad[key] = tensors[key].clone()
        bad[key].view(-1)[0] = float("nan")
        lora = load_some(bad, make_layer("linear"), folder)
        assert not lora.adapters
        assert all("NaN or infinite" in note.reason for note in lora.report.unmatched)


class ElsewhereLayer(TorchLayer):
    """A layer on another device than the adapter; the meta device, which refuses to mix as a GPU does."""

    def weight(self) -> Tensor:
        return super().weight().to("meta")

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight())


@pytest.mark.parametrize("name", STORED)
def test_an_adapter_follows_the_layer_to_its_device(name: str, tmp_path: Path) -> None:
    layer = make_layer("linear")
    (placed, *_) = load(_stored(name), layer, tmp_path).adapters
    elsewhere, x = ElsewhereLayer(layer), make_input(layer).to("meta")
    plain = elsewhere.linear(x)
    for adapter in (placed.adapter, placed.adapter.prepared(elsewhere.weight())):
        assert adapter.delta_of(elsewhere.weight()).is_meta
        assert adapter.branch(x, plain, elsewhere).shape == plain.shape


@pytest.mark.parametrize("name", STORED)
def test_the_header_alone_gives_the_account_of_the_whole_file(name: str, tmp_path: Path) -> None:
    layer = make_layer("linear")
    account = load(_stored(name), layer, tmp_path).report.as_json()
    layout = list_targets({f"diffusion_model.layer.{key}": tuple(p.shape) for key, p in layer.named_parameters()})
    assert inspect_file(open_lora(tmp_path / "adapter_model.safetensors"), layout).as_json() == account


@pytest.mark.parametrize("name", STORED)
def test_rows_of_an_adapter_change_those_rows_as_the_whole_does_or_are_refused(name: str, tmp_path: Path) -> None:
    layer = make_layer("linear")
    (placed, *_) = load(_stored(name), layer, tmp_path).adapters
    whole = placed.adapter.delta_of(layer.weight)
    for start, stop in ((0, 8), (8, 16)):
        if name in ("OFT", "BOFT", "OFT given"):  # a block turns rows into one another
            with pytest.raises(BadAdapter, match="split exactly"):
                take_rows(placed.adapter, start, stop)
            continue
        rows = take_rows(placed.adapter, start, stop)
        torch.testing.assert_close(rows.delta_of(layer.weight[start:stop]), whole[start:stop], atol=1e-6, rtol=1e-5)
        x, frozen = make_input(layer), LayerRows(TorchLayer(layer), start, stop)
        expected = F.linear(x, whole[start:stop])
        torch.testing.assert_close(rows.branch(x, frozen.linear(x), frozen), expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32, torch.int64, torch.int8, torch.uint8], ids=str)
def test_an_alpha_of_any_dtype_and_shape_divides_by_the_rank(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    layer = make_layer("linear")
    tensors = _pair(alpha=None) | {f"{LAYER}.alpha": torch.full(shape, 2.0).to(dtype)}
    (placed,) = load(tensors, layer, tmp_path).adapters
    expected = layer.weight + _delta(tensors, layer.weight.shape, 2.0 / RANK)
    torch.testing.assert_close(merged(placed.adapter, layer.weight, 1.0).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["alpha", "scale"])
def test_an_alpha_or_scale_that_is_not_finite_refuses_the_layer(name: str, bad: float, tmp_path: Path) -> None:
    tensors = _pair(alpha=None) | {f"{LAYER}.{name}": torch.tensor(bad)}
    assert "NaN or infinite" in reason(tensors, make_layer("linear"), tmp_path)


@pytest.mark.parametrize("name", sorted(set(STORED) - {"VeRA", "AdaLoRA"}))
def test_a_grouped_convolution_gets_the_branch_of_its_merged_weight(name: str, tmp_path: Path) -> None:
    """Its weight is [out, in / groups, *kernel], on which products with the whole input would be wrong."""
    layer = nn.Conv2d(2 * IN, OUT, 1, groups=2).requires_grad_(False)
    (placed, *_) = load(_stored(name), layer, tmp_path).adapters
    x = torch.randn(2, 2 * IN, 5, 5, generator=torch.Generator().manual_seed(2))
    frozen = TorchLayer(layer)
    expected = frozen.apply(merged(placed.adapter, layer.weight, 1.0), x) - frozen.linear(x)
    found = placed.adapter.branch(x, frozen.linear(x), frozen)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(STORED) - {"VeRA"}))
def test_an_adapter_of_rows_acts_beside_those_rows_alone(name: str, tmp_path: Path) -> None:
    fused = nn.Linear(IN, 3 * OUT).requires_grad_(False)
    (placed, *_) = load(_stored(name), make_layer("linear"), tmp_path).adapters
    x = make_input(fused)
    rows = LayerRows(TorchLayer(fused), OUT, 2 * OUT)
    weight = fused.weight.detach().clone()
    placed.adapter.add_delta_(weight.narrow(0, OUT, OUT), 1.0)
    expected = (F.linear(x, weight) - F.linear(x, fused.weight))[..., OUT : 2 * OUT]
    torch.testing.assert_close(placed.adapter.branch(x, rows.linear(x), rows), expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(STORED) - {"VeRA"}))
def test_an_adapter_of_swapped_halves_acts_beside_the_layer_as_merged(name: str, tmp_path: Path) -> None:
    layer = make_layer("linear")
    (placed, *_) = load(_stored(name), layer, tmp_path).adapters
    adapter = SwappedHalves(placed.adapter)
    x, frozen = make_input(layer), TorchLayer(layer)
    expected = F.linear(x, merged(adapter, layer.weight, 1.0)) - frozen.linear(x)
    for one in (adapter, adapter.prepared(frozen.weight())):
        torch.testing.assert_close(one.branch(x, frozen.linear(x), frozen), expected, atol=5e-5, rtol=1e-4)
