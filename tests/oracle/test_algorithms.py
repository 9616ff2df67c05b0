"""LoHa, LoKr, GLoRA, OFT, BOFT, IA3, DoRA and whole differences change weights as LyCORIS and PEFT do."""

from collections.abc import Mapping
from pathlib import Path

import lycoris.modules.boft
import lycoris.modules.diag_oft
import lycoris.modules.glora
import lycoris.modules.ia3
import lycoris.modules.locon
import lycoris.modules.loha
import lycoris.modules.lokr
import pytest
import torch
from lora_pack.lora_core import LoadedLora, NameTable, list_targets, load_lora, open_lora
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

STRENGTHS = (-1.0, 0.0, 0.5, 1.0, 2.0)
LAYER = "lora_unet_layer"
OUT, IN, RANK, ALPHA = 16, 20, 4, 3.0
TOLERANCE = 2e-5  # float32, deltas of order 1

LAYERS = {
    "linear": lambda: nn.Linear(IN, OUT),
    "conv 1x1": lambda: nn.Conv2d(IN, OUT, 1),
    "conv 3x3": lambda: nn.Conv2d(IN, OUT, 3, padding=1),
}
LYCORIS = {
    "loha": (lycoris.modules.loha.LohaModule, {}),
    "loha tucker": (lycoris.modules.loha.LohaModule, {"use_tucker": True}),
    "lokr": (lycoris.modules.lokr.LokrModule, {"factor": 4}),
    "lokr both factored": (lycoris.modules.lokr.LokrModule, {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr whole": (lycoris.modules.lokr.LokrModule, {"factor": 4, "full_matrix": True}),
    "glora": (lycoris.modules.glora.GLoRAModule, {}),
    "lokr tucker": (lycoris.modules.lokr.LokrModule, {"factor": 2, "use_tucker": True, "lora_dim": 2}),
}


def _layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[kind]()


def _randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "org_module" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def _load(tensors: Mapping[str, Tensor], layer: nn.Module, folder: Path) -> LoadedLora:
    path = folder / "a.safetensors"
    save_file({key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}, path)
    shapes = {f"diffusion_model.layer.{name}": tuple(p.shape) for name, p in layer.named_parameters()}
    layout = list_targets(shapes)
    lora = load_lora(open_lora(path), layout, NameTable(layout))
    lora.report.require_any().require_complete()
    return lora


def _merged(lora: LoadedLora, weight: Tensor, strength: float) -> Tensor:
    changed = weight.detach().clone()
    lora.adapters[0].adapter.add_delta_(changed, strength)
    return changed


def _published_delta(module: nn.Module, weight: Tensor) -> Tensor:
    """LoHa's and LoKr's get_diff_weight multiply by alpha / rank twice in this version; get_weight does not."""
    if hasattr(module, "get_weight"):
        return module.get_weight(weight.shape).detach().reshape(weight.shape)
    return module.get_diff_weight(1.0, weight.shape)[0].detach().reshape(weight.shape)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("algorithm", LYCORIS)
def test_a_lycoris_module_and_ours_change_a_weight_alike(algorithm: str, kind: str, tmp_path: Path) -> None:
    module_class, options = LYCORIS[algorithm]
    layer = _layer(kind)
    settings = {"lora_dim": RANK, "alpha": ALPHA} | options
    module = module_class("layer", layer, multiplier=1.0, **settings)
    _randomise(module)
    tensors = {f"{LAYER}.{key}": tensor for key, tensor in module.state_dict().items() if "org_module" not in key}
    lora = _load(tensors, layer, tmp_path)
    expected = _published_delta(module, layer.weight)
    assert expected.abs().max() > 0.1
    for strength in STRENGTHS:
        assert torch.allclose(
            _merged(lora, layer.weight, strength), layer.weight + strength * expected, atol=TOLERANCE, rtol=1e-5
        )


ROTATIONS = {
    "oft": (lycoris.modules.diag_oft.DiagOFTModule, 4),
    "boft": (lycoris.modules.boft.ButterflyOFTModule, 4),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("constraint", [0.0, 0.01])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("algorithm", ROTATIONS)
def test_rotations_are_those_of_lycoris_and_linear_in_strength(
    algorithm: str, rescaled: bool, constraint: float, kind: str, tmp_path: Path
) -> None:
    module_class, size = ROTATIONS[algorithm]
    layer = _layer(kind)
    module = module_class("layer", layer, multiplier=1.0, lora_dim=size, constraint=constraint, rescaled=rescaled)
    _randomise(module)
    tensors = {f"{LAYER}.{key}": tensor for key, tensor in module.state_dict().items() if "org_module" not in key}
    lora = _load(tensors, layer, tmp_path)
    turned = module.get_merged_weight(1.0, layer.weight.shape)[0].detach().reshape(layer.weight.shape)
    assert not torch.allclose(turned, layer.weight, atol=0.01)
    for strength in STRENGTHS:
        expected = layer.weight + strength * (turned - layer.weight)
        assert torch.allclose(_merged(lora, layer.weight, strength), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3_of_lycoris_scales_outputs_or_inputs(kind: str, on_input: bool, tmp_path: Path) -> None:
    layer = _layer(kind)
    module = lycoris.modules.ia3.IA3Module("layer", layer, multiplier=1.0, train_on_input=on_input)
    _randomise(module)
    tensors = {f"{LAYER}.{key}": tensor for key, tensor in module.state_dict().items() if "org_module" not in key}
    lora = _load(tensors, layer, tmp_path)
    for strength in STRENGTHS:
        expected = layer.weight + module.get_diff_weight(strength, layer.weight.shape)[0].detach()
        assert torch.allclose(_merged(lora, layer.weight, strength), expected, atol=TOLERANCE)


@pytest.mark.parametrize("feedforward", [False, True])
def test_ia3_of_peft_scales_outputs_with_their_bias_or_inputs(feedforward: bool, tmp_path: Path) -> None:
    model = nn.ModuleDict({"layer": _layer("linear")})
    base = _layer("linear")
    names = ["layer"]
    inject_adapter_in_model(IA3Config(target_modules=names, feedforward_modules=names if feedforward else []), model)
    with torch.no_grad():
        model["layer"].ia3_l["default"].copy_(torch.rand(model["layer"].ia3_l["default"].shape) * 2)
    lora = _load({"base_model.model.layer.ia3_l": model["layer"].ia3_l["default"]}, base, tmp_path)
    changed = {"weight": base.weight.detach().clone(), "bias": base.bias.detach().clone()}
    for placed in lora.adapters:
        placed.adapter.add_delta_(changed[placed.parameter], 1.0)
    model["layer"].merge()
    for parameter, tensor in changed.items():
        assert torch.allclose(tensor, getattr(model["layer"].base_layer, parameter), atol=TOLERANCE)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("on_output", [False, True], ids=["per input", "per output"])
def test_dora_is_that_of_lycoris_on_either_axis(kind: str, on_output: bool, tmp_path: Path) -> None:
    layer = _layer(kind)
    module = lycoris.modules.locon.LoConModule(
        "layer", layer, multiplier=1.0, lora_dim=RANK, alpha=ALPHA, weight_decompose=True, wd_on_out=on_output
    )
    _randomise(module)
    tensors = {f"{LAYER}.{key}": tensor for key, tensor in module.state_dict().items() if "org_module" not in key}
    lora = _load(tensors, layer, tmp_path)
    trained = module.get_merged_weight(1.0, layer.weight.shape)[0].detach().reshape(layer.weight.shape)
    for strength in STRENGTHS:  # ours is linear between the weight and the trained weight
        expected = layer.weight + strength * (trained - layer.weight)
        assert torch.allclose(_merged(lora, layer.weight, strength), expected, atol=1e-4, rtol=1e-4)


def _injected(layer: nn.Module, **options: bool) -> nn.Module:
    """The layer with a PEFT adapter whose factors are random."""
    model = nn.ModuleDict({"layer": layer})
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["layer"], **options), model)
    _randomise(model["layer"].lora_A)
    _randomise(model["layer"].lora_B)
    return model["layer"]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_dora_is_that_of_peft_on_its_per_output_axis(kind: str, name: str, tmp_path: Path) -> None:
    base = _layer(kind)
    injected = _injected(_layer(kind), use_dora=True)
    with torch.no_grad():
        injected.lora_magnitude_vector["default"].weight.mul_(1.3)
    tensors = {
        "base_model.model.layer.lora_A.weight": injected.lora_A["default"].weight,
        "base_model.model.layer.lora_B.weight": injected.lora_B["default"].weight,
        f"base_model.model.layer.{name}": injected.lora_magnitude_vector["default"].weight,
    }
    lora = _load(tensors, base, tmp_path)
    injected.merge()
    assert not torch.allclose(base.weight, injected.base_layer.weight, atol=0.1)
    assert torch.allclose(_merged(lora, base.weight, 1.0), injected.base_layer.weight, atol=1e-4)


def test_a_lora_bias_is_that_of_peft(tmp_path: Path) -> None:
    base = _layer("linear")
    injected = _injected(_layer("linear"), lora_bias=True)
    tensors = {
        "base_model.model.layer.lora_A.weight": injected.lora_A["default"].weight,
        "base_model.model.layer.lora_B.weight": injected.lora_B["default"].weight,
        "base_model.model.layer.lora_B.bias": injected.lora_B["default"].bias,
    }
    (tmp_path / "adapter_config.json").write_text(f'{{"r": {RANK}, "lora_alpha": {RANK}}}')
    changed = {"weight": base.weight.detach().clone(), "bias": base.bias.detach().clone()}
    for placed in _load(tensors, base, tmp_path).adapters:
        placed.adapter.add_delta_(changed[placed.parameter], 1.0)
    injected.merge()
    assert not torch.allclose(base.bias, injected.base_layer.bias, atol=0.1)
    for parameter, tensor in changed.items():
        assert torch.allclose(tensor, getattr(injected.base_layer, parameter), atol=TOLERANCE)


@pytest.mark.parametrize(("role", "parameter"), [("diff", "weight"), ("diff_b", "bias"), ("w_norm", "weight")])
def test_whole_differences_take_strength_alone(role: str, parameter: str, tmp_path: Path) -> None:
    layer = nn.LayerNorm(OUT) if role == "w_norm" else _layer("linear")
    difference = torch.randn_like(getattr(layer, parameter))
    (placed,) = _load({f"diffusion_model.layer.{role}": difference}, layer, tmp_path).adapters
    changed = torch.zeros_like(difference)
    placed.adapter.add_delta_(changed, -0.5)
    assert placed.parameter == parameter
    assert torch.allclose(changed, -0.5 * difference)


def test_a_replaced_weight_is_reached_at_strength_1_and_half_way_at_a_half(tmp_path: Path) -> None:
    layer = _layer("linear")
    target = torch.randn(OUT, IN)
    lora = _load({"diffusion_model.layer.set_weight": target}, layer, tmp_path)
    assert torch.allclose(_merged(lora, layer.weight, 1.0), target, atol=1e-6)
    assert torch.allclose(_merged(lora, layer.weight, 0.5), (target + layer.weight) / 2, atol=1e-6)
