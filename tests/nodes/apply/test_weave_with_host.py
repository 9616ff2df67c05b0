"""Adapters beside the layers together with the host's own ways: its loader, its hooks, its quantised layers."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import pytest
import torch
from lora_pack.lora_core.weave import AUTO, BRANCH, MERGE
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.apply_stack import ApplyStack
from lora_pack.nodes.comfy_bridge import WEAVE
from safetensors.torch import save_file
from torch import Tensor, nn

from ..conftest import patcher_of


def _apply(model: Any, name: str, strength: float = 1.0, mode: str = BRANCH) -> Any:
    return ApplyLora.execute(model, name, strength, strength, "error", mode=mode).args[0]


@pytest.fixture
def three_files(loras_dir: Path, adapter_tensors: dict[str, Tensor]) -> list[str]:
    """Files that differ, so that one applied twice or not at all shows."""
    for number in range(3):
        generator = torch.Generator().manual_seed(20 + number)
        tensors = {
            key: tensor if key.endswith("alpha") else torch.randn(tensor.shape, generator=generator) * 0.2
            for key, tensor in adapter_tensors.items()
        }
        save_file(tensors, loras_dir / f"file {number}.safetensors")
    return [f"file {number}.safetensors" for number in range(3)]


def _sample(model: Any, hooks: Any = None) -> Tensor:
    """Two steps with and without the prompt, each cond under the hooks."""
    import comfy.hooks
    import comfy.sample

    generator = torch.Generator().manual_seed(5)
    conds = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    if hooks is not None:
        conds = [comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in conds]
    noise, latent = torch.randn(1, 4, 16, 16, generator=generator), torch.zeros(1, 4, 16, 16)
    return comfy.sample.sample(model, noise, 2, 2.0, "euler", "simple", *conds, latent, disable_pbar=True)


@pytest.mark.parametrize("order", list(itertools.permutations(["host", "ours", "hook"])), ids=" then ".join)
def test_the_hosts_loader_ours_and_the_hosts_hooks_add_up_in_any_order(
    model: Any, three_files: list[str], loras_dir: Path, order: tuple[str, ...]
) -> None:
    """The hook stands in the conds, so its place in the order is when it is made."""
    import comfy.hooks
    import comfy.sd
    import comfy.utils

    strengths = (0.3, 0.4, 0.2)
    base = _sample(model)
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    merged, patched, hooks = model, model, None
    for name, strength in zip(three_files, strengths, strict=True):
        merged = _apply(merged, name, strength, MERGE)
    expected = _sample(merged)
    for kind, name, strength in zip(order, three_files, strengths, strict=True):
        file = comfy.utils.load_torch_file(str(loras_dir / name))
        if kind == "host":
            patched = comfy.sd.load_lora_for_models(patched, None, file, strength, 0.0)[0]
        elif kind == "ours":
            patched = _apply(patched, name, strength)
        else:
            hooks = comfy.hooks.create_hook_lora(lora=file, strength_model=strength, strength_clip=0.0)
    found = _sample(patched, hooks)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(found, _sample(patched), atol=1e-3 * float(expected.abs().max()))  # the hook did act
    assert torch.equal(_sample(model), base)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


def test_rows_in_another_order_use_the_same_matrices_and_give_the_same_output_to_the_bit(
    model: Any, run: Callable[[Any], Tensor], three_files: list[str]
) -> None:
    rows = [(name, 0.1 + 0.2 * number, 0.0) for number, name in enumerate(three_files)]
    one, other = (ApplyStack.execute(model, order, "error", mode=BRANCH).args[0] for order in (rows, rows[::-1]))
    assert one.get_additional_models_with_key(WEAVE)[0] is other.get_additional_models_with_key(WEAVE)[0]
    assert torch.equal(run(one), run(other))


def test_a_row_switched_off_and_on_again_writes_no_weight_and_weaves_each_set_of_rows_once(
    model: Any, run: Callable[[Any], Tensor], three_files: list[str]
) -> None:
    def rows(last: float) -> list[tuple[str, float, float]]:
        return [(three_files[0], 0.5, 0.0), (three_files[1], 0.3, 0.0), (three_files[2], last, 0.0)]

    patched = [ApplyStack.execute(model, rows(last), "error", mode=BRANCH).args[0] for last in (0.4, 0.0)]
    on, off = (run(one) for one in patched)
    versions = {name: parameter._version for name, parameter in model.model.named_parameters()}
    matrices = [list(one.get_additional_models_with_key(WEAVE)[0].model.parameters()) for one in patched]
    for last, expected, kept in ((0.4, on, matrices[0]), (0.0, off, matrices[1])):
        again = ApplyStack.execute(model, rows(last), "error", mode=BRANCH).args[0]
        assert torch.equal(run(again), expected)
        now = again.get_additional_models_with_key(WEAVE)[0].model.parameters()
        assert all(one is other for one, other in zip(now, kept, strict=True))
    assert {name: parameter._version for name, parameter in model.model.named_parameters()} == versions
    assert not torch.allclose(on, off, atol=1e-3)


def test_a_file_applied_twice_is_woven_once_at_the_sum_of_its_strengths(
    model: Any, run: Callable[[Any], Tensor], three_files: list[str]
) -> None:
    twice = _apply(_apply(model, three_files[0], 0.3), three_files[0], 0.2)
    once = _apply(model, three_files[0], 0.5)
    sizes = [one.get_additional_models_with_key(WEAVE)[0].model.size for one in (twice, once)]
    assert sizes[0] == sizes[1]
    assert torch.allclose(run(twice), run(once), atol=1e-6)


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_file_that_goes_away_while_it_is_applied_changes_nothing_until_the_graph_runs_again(
    model: Any, run: Callable[[Any], Tensor], three_files: list[str], loras_dir: Path, change: str
) -> None:
    from lora_pack.lora_core.errors import FileMissing

    base = run(model)
    patched = _apply(model, three_files[0])
    before = run(patched)
    if change == "deleted":
        (loras_dir / three_files[0]).unlink()
    else:
        data = (loras_dir / three_files[1]).read_bytes()
        (loras_dir / three_files[0]).write_bytes(data + b" ")  # another size, and cut short under any mapping
        (loras_dir / three_files[0]).write_bytes(data)
    assert torch.equal(run(patched.clone()), before)
    if change == "deleted":
        assert ApplyLora.validate_inputs(three_files[0]) is not True
        with pytest.raises(FileMissing, match=three_files[0]):
            _apply(model, three_files[0])
    else:
        assert torch.allclose(run(_apply(model, three_files[0])), run(_apply(model, three_files[1])), atol=1e-6)
    assert torch.equal(run(model), base)


FORMATS = sorted(getattr(comfy.quant_ops, "QUANT_ALGOS", {}))  # every one that this host can keep a layer in
NO_PRODUCT_ON_A_CPU = ("mxfp8",)  # torch multiplies such blocks on a card alone; the host's other way dequantises
OUT, IN = 128, 256


@pytest.fixture(params=FORMATS)
def quantised(request: pytest.FixtureRequest) -> Any:
    """A host patcher that carries one layer in a format of the host's own."""
    algorithm = comfy.quant_ops.QUANT_ALGOS[request.param]
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(4)) * 0.1
    if not hasattr(comfy.quant_ops.QuantizedTensor, "state_dict"):
        pytest.skip("this ComfyUI writes no layer of this format")
    held = comfy.quant_ops.QuantizedTensor.from_float(weight, algorithm["comfy_tensor_layout"])
    dequantises = request.param in NO_PRODUCT_ON_A_CPU and comfy.model_management.cpu_mode()
    layer = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=dequantises).Linear(IN, OUT)
    marker = torch.frombuffer(bytearray(json.dumps({"format": request.param}).encode()), dtype=torch.uint8)
    layer.load_state_dict(held.state_dict("weight") | {"comfy_quant": marker, "bias": torch.zeros(OUT)})
    model = nn.Module()
    model.diffusion_model = nn.Module()
    model.diffusion_model.layer = layer.requires_grad_(False)
    model.model_config = SimpleNamespace(unet_config={}, custom_operations=None)
    model.manual_cast_dtype = None
    model.get_dtype = lambda: torch.float32
    return patcher_of(model)


def _layer_file(loras_dir: Path, tensors: Mapping[str, Tensor]) -> str:
    save_file({f"diffusion_model.layer.{key}": tensor for key, tensor in tensors.items()}, loras_dir / "q.safetensors")
    return "q.safetensors"


@torch.no_grad()
def test_a_quantised_layer_of_the_host_keeps_its_quantised_product_and_gets_the_exact_change(
    quantised: Any, loras_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(8)
    down, up = torch.randn(4, IN, generator=generator) * 0.05, torch.randn(OUT, 4, generator=generator) * 0.05
    x = torch.randn(5, IN, generator=generator)
    layer = quantised.model.diffusion_model.layer
    weight, device = layer.weight, quantised.load_device
    name = _layer_file(loras_dir, {"lora_A.weight": down, "lora_B.weight": up})
    comfy.model_management.load_models_gpu([quantised])
    before = layer(x.to(device)).cpu()
    products: list[type] = []
    own = type(layer).forward
    monkeypatch.setattr(
        type(layer), "forward", lambda self, *args, **kw: products.append(type(self.weight)) or own(self, *args, **kw)
    )
    patched = _apply(quantised, name, 0.5, AUTO)
    comfy.model_management.load_models_gpu([patched])
    change = (layer(x.to(device)).cpu() - before).double()
    exact = x.double() @ (0.5 * up.double() @ down.double()).T
    assert ((change - exact).norm() / exact.norm()).item() <= 1e-4
    assert products == [type(weight)] and type(weight) not in (Tensor, nn.Parameter)
    assert torch.equal(layer.weight.dequantize().cpu(), weight.dequantize().cpu())
    comfy.model_management.load_models_gpu([quantised])
    assert torch.equal(layer(x.to(device)).cpu(), before)


def test_a_strength_changes_after_the_host_moved_the_matrices_away_and_back(
    model: Any, run: Callable[[Any], Tensor], style: str
) -> None:
    wanted = run(_apply(model, style, 0.3))
    with torch.inference_mode():  # as the host's executor runs everything, freeing memory included
        patched = _apply(model, style, 0.8)
        run(patched)
        (beside,) = patched.get_nested_additional_models()
        beside.model.to(torch.float64).to(torch.float32)  # as a move to the CPU and back: other tensors, of this mode
        assert any(tensor.is_inference() for tensor in beside.model.buffers())
        changed = _apply(model, style, 0.3)
        assert changed.get_nested_additional_models()[0].model is beside.model
        assert torch.allclose(run(changed), wanted, atol=1e-6)


def test_a_strength_that_moves_and_a_hook_of_the_host_on_the_conds_add_up(
    model: Any, three_files: list[str], loras_dir: Path
) -> None:
    import comfy.hooks
    import comfy.utils
    from lora_pack.lora_core.weave.schedule import parse_schedule

    base = _sample(model)
    hooks = comfy.hooks.create_hook_lora(comfy.utils.load_torch_file(str(loras_dir / three_files[1])), 0.5, 0.0)
    moving = ApplyLora.execute(
        model, three_files[0], 0.4, 0.4, "error", mode=AUTO, schedule=parse_schedule("0:1, 1:1")
    ).args[0]
    expected = _sample(_apply(_apply(model, three_files[0], 0.4, MERGE), three_files[1], 0.5, MERGE))
    assert torch.allclose(_sample(moving, hooks), expected, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(_sample(model), base)
