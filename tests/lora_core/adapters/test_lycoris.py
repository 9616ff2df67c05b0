"""Every algorithm of LyCORIS gives the outputs of LyCORIS' own layers, merged into the weight and beside the layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule, _glora_weight
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import Tensor, nn

from .reference_layers import (
    IN,
    KINDS,
    OUT,
    TorchLayer,
    check,
    load,
    make_input,
    make_layer,
    merged,
    randomise_,
)

PREFIX = "lora_unet_layer"
RANK, ALPHA = 4, 3.0
SETTINGS = {"lora_dim": RANK, "alpha": ALPHA}

ALGORITHMS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "LoCon": (LoConModule, SETTINGS),
    "LoCon Tucker": (LoConModule, SETTINGS | {"use_tucker": True}),
    "LoCon rank-stabilised": (LoConModule, SETTINGS | {"rs_lora": True}),
    "LoHa": (LohaModule, SETTINGS),
    "LoHa Tucker": (LohaModule, SETTINGS | {"use_tucker": True}),
    "LoKr": (LokrModule, SETTINGS | {"factor": 4}),
    "LoKr, both factored": (LokrModule, SETTINGS | {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "LoKr, both whole": (LokrModule, SETTINGS | {"factor": 4, "full_matrix": True}),
    "LoKr Tucker": (LokrModule, SETTINGS | {"factor": 2, "use_tucker": True, "lora_dim": 2}),
    "GLoRA": (GLoRAModule, SETTINGS),
    "OFT": (DiagOFTModule, {"lora_dim": 4}),
    "OFT, constrained": (DiagOFTModule, {"lora_dim": 4, "constraint": 0.02}),
    "OFT, rescaled": (DiagOFTModule, {"lora_dim": 4, "rescaled": True}),
    "BOFT": (ButterflyOFTModule, {"lora_dim": 4}),
    "BOFT, constrained": (ButterflyOFTModule, {"lora_dim": 4, "constraint": 0.02}),
    "BOFT, rescaled": (ButterflyOFTModule, {"lora_dim": 4, "rescaled": True}),
    "IA3 of outputs": (IA3Module, {"train_on_input": False}),
    "IA3 of inputs": (IA3Module, {"train_on_input": True}),
    "full difference": (FullModule, {}),
}
DORA = {name: ALGORITHMS[name] for name in ("LoCon", "LoHa", "LoHa Tucker", "LoKr", "LoKr, both factored")}


def _trained(algorithm: type[nn.Module], kind: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a layer with LyCORIS' trained adapter in it, the tensors of its file)."""
    layer = make_layer(kind)
    module = algorithm("layer", layer, multiplier=1.0, **options)
    start = {name: p for name, p in module.named_parameters() if "org_module" not in name}
    randomise_({name: p for name, p in start.items() if name not in ("dora_scale", "rescale")})
    for name in ("dora_scale", "rescale"):
        if name in start:
            start[name].data.mul_(torch.linspace(0.7, 1.6, start[name].numel()).reshape(start[name].shape))
    if algorithm is FullModule:  # it adds the layer's own weight as it goes into it, and takes it off to save
        module.apply_to()
    tensors = {f"{PREFIX}.{key}": tensor.clone() for key, tensor in module.state_dict().items()}
    if algorithm is not FullModule:
        module.apply_to()
    return layer, tensors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_layer_gives_what_lycoris_gives(algorithm: str, kind: str, tmp_path: Path) -> None:
    trained, tensors = _trained(*_of(ALGORITHMS[algorithm], kind))
    check(load(tensors, make_layer(kind), tmp_path), make_layer(kind), trained)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_output", [False, True], ids=["per input", "per output"])
@pytest.mark.parametrize("algorithm", DORA)
def test_dora_on_any_algorithm_is_that_of_lycoris(algorithm: str, on_output: bool, kind: str, tmp_path: Path) -> None:
    module, name, options = _of(DORA[algorithm], kind)
    trained, tensors = _trained(module, name, options | {"weight_decompose": True, "wd_on_out": on_output})
    assert f"{PREFIX}.dora_scale" in tensors
    lora = load(tensors, make_layer(kind), tmp_path)
    assert [algorithm.startswith("DoRA") for algorithm in lora.report.algorithms] == [True]
    check(lora, make_layer(kind), trained)


def _of(entry: tuple[type[nn.Module], dict[str, Any]], kind: str) -> tuple[type[nn.Module], str, dict[str, Any]]:
    return entry[0], kind, entry[1]


def test_a_norm_layer_gives_what_lycoris_gives(tmp_path: Path) -> None:
    trained = nn.LayerNorm(OUT).requires_grad_(False)
    module = NormModule("layer", trained, multiplier=1.0)
    randomise_({"w_norm": module.w_norm, "b_norm": module.b_norm})
    tensors = {f"{PREFIX}.{key}": tensor for key, tensor in module.state_dict().items()}
    layer = nn.LayerNorm(OUT).requires_grad_(False)
    for placed in load(tensors, layer, tmp_path).adapters:
        placed.adapter.add_delta_(getattr(layer, placed.parameter), 1.0)
    module.apply_to()
    x = torch.randn(3, OUT)
    torch.testing.assert_close(layer(x), trained(x).detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [False, True], ids=["new order", "order before 1.9"])
def test_glora_with_a_middle_tensor_is_the_product_of_lycoris(kind: str, old: bool, tmp_path: Path) -> None:
    layer = make_layer(kind)
    kernel = tuple(layer.weight.shape[2:])
    shapes = {"a1": (IN, RANK), "a2": (RANK, IN), "b1": (OUT, RANK), "b2": (RANK, IN), "bm": (RANK, RANK)}
    ones = tuple(1 for _ in kernel)
    parts = {name: torch.zeros(*shape, *(kernel if name == "bm" else ones)) for name, shape in shapes.items()}
    randomise_(parts, spread=0.3)
    weight = layer.weight.detach()
    delta = _glora_weight(weight, parts["a1"], parts["a2"], parts["b1"], parts["b2"], parts["bm"], ALPHA / RANK)
    stored = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1", "bm": "bm"} if old else dict.fromkeys(parts)
    tensors = {f"{PREFIX}.{stored[name] or name}.weight": tensor for name, tensor in parts.items()}
    lora = load(tensors | {f"{PREFIX}.alpha": torch.tensor(ALPHA)}, layer, tmp_path)
    torch.testing.assert_close(merged(lora.adapters[0].adapter, weight, 1.0), weight + delta, atol=1e-5, rtol=1e-5)


def test_rs_lora_in_the_metadata_scales_glora_alone(tmp_path: Path) -> None:
    trained, tensors = _trained(GLoRAModule, "linear", SETTINGS | {"rs_lora": True})
    metadata = {"ss_network_args": '{"algo": "glora", "rs_lora": "True"}'}
    check(load(tensors, make_layer("linear"), tmp_path, metadata), make_layer("linear"), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_oft_diag_holds_the_matrices_themselves(kind: str, tmp_path: Path) -> None:
    module = DiagOFTModule("layer", make_layer(kind), multiplier=1.0, lora_dim=4)
    randomise_({"oft_blocks": module.oft_blocks})
    trained, _ = _trained(DiagOFTModule, kind, {"lora_dim": 4})
    lora = load({f"{PREFIX}.oft_diag": module.get_r()}, make_layer(kind), tmp_path)
    check(lora, make_layer(kind), trained)


@pytest.mark.parametrize(("alpha", "noted"), [(32.0, False), (16.0, False), (1.0, True)])
def test_whole_lokr_matrices_have_scale_1_and_a_note_where_alpha_is_no_dim(
    alpha: float, noted: bool, tmp_path: Path
) -> None:
    w1, w2 = torch.randn(4, 4), torch.randn(4, 6)
    tensors = {f"{PREFIX}.lokr_w1": w1, f"{PREFIX}.lokr_w2": w2, f"{PREFIX}.alpha": torch.tensor(alpha)}
    metadata = {"ss_network_dim": "32", "ss_network_args": '{"conv_dim": "16"}'}
    lora = load(tensors, make_layer("linear"), tmp_path, metadata)
    torch.testing.assert_close(lora.adapters[0].adapter.delta(), torch.kron(w1, w2))
    assert any("ss_network_dim" in note for note in lora.report.notes) == noted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_branch_in_half_precision_is_near_the_one_in_single(
    algorithm: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    _, tensors = _trained(*_of(ALGORITHMS[algorithm], "linear"))
    layer = make_layer("linear")
    adapter = next(p.adapter for p in load(tensors, layer, tmp_path).adapters if p.parameter == "weight")
    x = make_input(layer)
    frozen = TorchLayer(layer)
    exact = adapter.branch(x, frozen.linear(x), frozen)
    half = adapter.branch(x.to(dtype), frozen.linear(x).to(dtype), frozen)
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()
