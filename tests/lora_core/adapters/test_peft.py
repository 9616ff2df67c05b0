"""Every algorithm of PEFT gives the outputs of PEFT's own layers, merged into the weight and beside the layer."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.adapters.input_rotation import butterfly_order
from lora_pack.lora_core.adapters.shared_projection import draw_projections
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.boft import layer as boft_layer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from .reference_layers import (
    IN,
    KINDS,
    OUT,
    check,
    load,
    load_model,
    load_some,
    make_input,
    make_layer,
    merged,
    randomise_,
    reason,
)

TARGET = {"target_modules": ["layer"]}
LINEAR = ["linear"]
ALL = list(KINDS)

CONFIGS: Mapping[str, tuple[type[PeftConfig], dict[str, Any], list[str]]] = {
    "LoRA": (LoraConfig, {"r": 4, "lora_alpha": 3}, ALL),
    "LoRA, rank-stabilised": (LoraConfig, {"r": 4, "lora_alpha": 3, "use_rslora": True}, ALL),
    "LoRA with a bias": (LoraConfig, {"r": 4, "lora_alpha": 3, "lora_bias": True}, ALL),
    "DoRA": (LoraConfig, {"r": 4, "lora_alpha": 3, "use_dora": True}, ALL),
    "LoHa": (LoHaConfig, {"r": 4, "alpha": 3}, ALL),
    "LoHa, effective convolution": (LoHaConfig, {"r": 4, "alpha": 3, "use_effective_conv2d": True}, ALL),
    "LoKr": (LoKrConfig, {"r": 2, "alpha": 3, "decompose_factor": 2}, ALL),
    "LoKr, both factored": (LoKrConfig, {"r": 1, "alpha": 3, "decompose_factor": 4, "decompose_both": True}, ALL),
    "LoKr, effective convolution": (
        LoKrConfig,
        {"r": 2, "alpha": 3, "decompose_factor": 2, "use_effective_conv2d": True},
        ALL,
    ),
    "LoKr, both whole": (LoKrConfig, {"r": 16, "alpha": 3}, ALL),
    "LoKr, both whole, rank by pattern": (LoKrConfig, {"r": 4, "alpha": 3, "rank_pattern": {"layer": 16}}, ALL),
    "AdaLoRA": (AdaLoraConfig, {"init_r": 4, "lora_alpha": 3, "total_step": 10}, ALL),
    "VeRA": (VeraConfig, {"r": 4}, LINEAR),
    "VeRA, projections drawn again": (VeraConfig, {"r": 4, "save_projection": False}, LINEAR),
    "IA3 of outputs": (IA3Config, {"feedforward_modules": []}, ALL),
    "IA3 of inputs": (IA3Config, {"feedforward_modules": ["layer"]}, ALL),
    "OFT": (OFTConfig, {"oft_block_size": 4}, ALL),
    "OFT, 3 terms": (OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 3}, ALL),
    "OFT, 7 terms": (OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 7}, ALL),
    "OFT, exact": (OFTConfig, {"oft_block_size": 4, "use_cayley_neumann": False}, ALL),
    "OFT, one block for all": (OFTConfig, {"oft_block_size": 4, "block_share": True}, ALL),
    "OFT, constrained": (OFTConfig, {"oft_block_size": 4, "coft": True, "eps": 0.3}, ALL),
    "BOFT": (BOFTConfig, {"boft_block_size": 4}, ALL),
    "BOFT, butterfly": (BOFTConfig, {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, ALL),
}
CASES = [(name, kind) for name, (_, _, kinds) in CONFIGS.items() for kind in kinds]


class Model(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.config = {"model_type": "custom"}

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class BlockDiagonals:
    """Stands for PEFT's CUDA kernel, without which its BOFT has one stage only."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*stage) for stage in blocks])


@pytest.fixture
def butterflies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(boft_layer, "FastBlockDiag", BlockDiagonals)


def _trained(name: str, kind: str, folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """(PEFT's model with a trained adapter, the tensors of its file); the configuration is written to the folder."""
    config_class, options, _ = CONFIGS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(Model(make_layer(kind)), config_class(**options, **TARGET))
    trainable = {key: p for key, p in model.named_parameters() if ".default" in key and "ranknum" not in key}
    multiplying = ("ia3_l", "boft_s", "magnitude")
    randomise_({key: p for key, p in trainable.items() if not any(part in key for part in multiplying)})
    randomise_({key: p for key, p in trainable.items() if "ia3_l" in key or "boft_s" in key}, 0.3, 1.0)
    for key, parameter in trainable.items():
        if "magnitude" in key:
            parameter.data.mul_(torch.linspace(0.7, 1.6, parameter.numel()).reshape(parameter.shape))
    model.peft_config["default"].save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.eval(), get_peft_model_state_dict(model)


@pytest.mark.usefixtures("butterflies")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_layer_gives_what_peft_gives(name: str, kind: str, tmp_path: Path) -> None:
    model, tensors = _trained(name, kind, tmp_path)
    if kind == "conv 3x3" and name.startswith(("OFT", "BOFT")):
        model = model.merge_and_unload()  # see test_the_unmerged_oft_of_peft_is_no_layer_on_a_3x3_convolution
    check(load(tensors, make_layer(kind), tmp_path), make_layer(kind), model)


def test_the_unmerged_oft_of_peft_is_no_layer_on_a_3x3_convolution(tmp_path: Path) -> None:
    """Its forward adds overlapping patches up, so that not even the identity leaves the output alone."""
    model, _ = _trained("OFT", "conv 3x3", tmp_path)
    model.base_model.model.layer.oft_R["default"].weight.data.zero_()
    layer = make_layer("conv 3x3")
    x = make_input(layer)
    assert (model(x) - layer(x)).abs().max() > 0.1
    torch.testing.assert_close(model.merge_and_unload()(x), layer(x), atol=1e-5, rtol=1e-5)


def test_the_exact_and_the_summed_cayley_transform_of_peft_turn_in_opposite_directions(tmp_path: Path) -> None:
    turns: list[Tensor] = []
    for name in ("OFT", "OFT, exact"):
        model, _ = _trained(name, "linear", tmp_path)
        rotation = model.base_model.model.layer.oft_R["default"]
        rotation.weight.data.mul_(0.01)
        turns.append(rotation.get_weight())
    torch.testing.assert_close(turns[0] @ turns[1], torch.eye(IN), atol=1e-5, rtol=0)
    assert (turns[0] - turns[1]).abs().max() > 0.01


def test_oft_without_a_configuration_is_the_sum_that_peft_and_onetrainer_make(tmp_path: Path) -> None:
    model, tensors = _trained("OFT", "linear", tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    check(load(tensors, make_layer("linear"), tmp_path), make_layer("linear"), model)


@pytest.mark.parametrize("prefix", ["lora_unet_", "transformer."])
def test_onetrainers_mark_of_scaled_oft_divides_by_the_blocks_size(prefix: str, tmp_path: Path) -> None:
    model, tensors = _trained("OFT", "linear", tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (stored,) = tensors.values()
    scaled = {
        f"{prefix}layer.oft_R.weight": stored * 2 * 3**0.5,  # blocks of 4
        f"{prefix}layer.oft_R.scaled_oft": torch.tensor(True),
    }
    check(load(scaled, make_layer("linear"), tmp_path), make_layer("linear"), model)


def test_adalora_keeps_the_scale_of_its_first_rank_after_pruning(tmp_path: Path) -> None:
    model, _ = _trained("AdaLoRA", "linear", tmp_path)
    model.base_model.resize_modules_by_rank_pattern({"layer.lora_E": [True, False, True, False]}, "default")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = get_peft_model_state_dict(model)
    assert tensors["base_model.model.layer.lora_E"].shape == (2, 1)
    check(load(tensors, make_layer("linear"), tmp_path), make_layer("linear"), model)


def test_veras_projections_are_drawn_as_peft_draws_them(tmp_path: Path) -> None:
    model, _ = _trained("VeRA", "linear", tmp_path)
    key = model.peft_config["default"].projection_prng_key
    a, b = draw_projections(key, 4, IN, OUT)
    assert torch.equal(a, model.base_model.vera_A["default"])
    assert torch.equal(b, model.base_model.vera_B["default"])


@pytest.mark.parametrize("saved", [True, False], ids=["projections saved", "projections drawn again"])
def test_each_layer_of_vera_takes_its_part_of_projections_made_for_the_largest(saved: bool, tmp_path: Path) -> None:
    names = ["tall", "wide"]
    layers = nn.ModuleDict({"tall": nn.Linear(10, 30), "wide": nn.Linear(24, 16)}).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(Model(layers), VeraConfig(r=4, save_projection=saved, target_modules=names))
    randomise_({key: parameter for key, parameter in model.named_parameters() if "vera_lambda" in key})
    model.peft_config["default"].save_pretrained(tmp_path)
    tensors = {key.replace("layer.", ""): tensor for key, tensor in get_peft_model_state_dict(model).items()}
    plain = nn.ModuleDict({name: model.base_model.model.layer[name].base_layer for name in names})
    adapters = {placed.place.path: placed.adapter for placed in load_model(tensors, plain, tmp_path).adapters}
    for name in names:
        expected = model.base_model.model.layer[name].get_delta_weight("default").detach()
        torch.testing.assert_close(adapters[f"diffusion_model.{name}"].delta(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("config", [None, {"peft_type": "VERA", "r": 4}])
def test_vera_without_projections_or_their_key_is_refused(config: dict[str, Any] | None, tmp_path: Path) -> None:
    _, tensors = _trained("VeRA, projections drawn again", "linear", tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "projection_prng_key" in reason(tensors, make_layer("linear"), tmp_path)


def test_vera_of_a_model_with_more_layers_is_refused_unless_it_brings_its_projections(tmp_path: Path) -> None:
    _, tensors = _trained("VeRA, projections drawn again", "linear", tmp_path)
    tensors |= {key.replace("layer", "other"): tensor for key, tensor in tensors.items()}
    reasons = {note.reason for note in load_some(tensors, make_layer("linear"), tmp_path).report.unmatched}
    assert any("every layer of the file" in text for text in reasons)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_order_of_a_butterfly_is_that_of_peft(stage: int) -> None:
    order = boft_layer.BOFTLayer.block_butterfly_perm(None, 48, 48 // 4 // 2**stage, 2, 3)
    assert torch.equal(butterfly_order(48, 4, stage), order)


SQUARE = {"linear": nn.Linear(6, 6), "conv 3x3": nn.Conv2d(6, 6, 3)}


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("kind", SQUARE)
def test_the_factors_of_a_square_layer_are_told_apart(kind: str, inputs: bool, tmp_path: Path) -> None:
    layer = SQUARE[kind].requires_grad_(False)
    shape = [1, 6, 1, 1] if kind == "conv 3x3" else [1, 6] if inputs else [6, 1]
    factors = torch.linspace(0.5, 2, 6).reshape(shape)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"feedforward_modules": ["layer"] if inputs else []}))
    lora = load({"base_model.model.layer.ia3_l": factors}, layer, tmp_path)
    along = [1, 6] if inputs else [6, 1]
    wanted = layer.weight * factors.reshape(along + [1] * (layer.weight.dim() - 2))
    adapter = next(placed.adapter for placed in lora.adapters if placed.parameter == "weight")
    torch.testing.assert_close(merged(adapter, layer.weight, 1.0), wanted)


def test_the_factors_of_a_square_convolution_without_a_configuration_are_refused(tmp_path: Path) -> None:
    tensors = {"base_model.model.layer.ia3_l": torch.ones(1, 6, 1, 1)}
    assert "adapter_config.json" in reason(tensors, SQUARE["conv 3x3"], tmp_path)


def test_the_magnitudes_of_a_square_convolution_are_per_output(tmp_path: Path) -> None:
    layer = SQUARE["conv 3x3"].requires_grad_(False)
    magnitudes = torch.linspace(0.5, 2, 6)
    tensors = {
        "base_model.model.layer.lora_A.weight": torch.zeros(2, 6, 3, 3),
        "base_model.model.layer.lora_B.weight": torch.zeros(6, 2, 1, 1),
        "base_model.model.layer.lora_magnitude_vector": magnitudes.reshape(1, 6, 1, 1),
    }
    (placed,) = load(tensors, layer, tmp_path).adapters
    found = merged(placed.adapter, layer.weight, 1.0).flatten(1).norm(dim=1)
    torch.testing.assert_close(found, magnitudes)


@pytest.mark.parametrize("name", ["vblora_logits_A", "randlora_lambda", "delora_lambda", "gralora_A", "pvera_lambda_b"])
def test_algorithms_of_peft_alone_are_refused_by_name(name: str, tmp_path: Path) -> None:
    told = reason({f"base_model.model.layer.{name}": torch.ones(2, 2)}, make_layer("linear"), tmp_path)
    assert told == f"algorithm not supported yet: {name.split('_')[0]}"
