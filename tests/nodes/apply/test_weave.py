"""Adapters beside the layers, on the real host: the same result as merging, nothing written, nothing left behind."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import LayerGone, StackError, WeaveTooLarge
from lora_pack.lora_core.weave import AUTO, BRANCH, MERGE, Weave, WovenLayer
from lora_pack.lora_core.weave.injection import BesideForward
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import PLAN, WEAVE
from safetensors.torch import save_file
from torch import Tensor, nn

from ..conftest import CONFIG, one_step, patcher_of

Step = Callable[[Any], Tensor]
TOLERANCE: Mapping[torch.dtype, float] = {torch.float32: 1e-5, torch.bfloat16: 5e-2}  # outputs of order 1


def _apply(model: Any, name: str, strength: float = 1.0, mode: str = BRANCH) -> Any:
    return ApplyLora.execute(model, name, strength, strength, "error", mode=mode).args[0]


def _weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def _versions(model: Any) -> dict[str, int]:
    return {name: parameter._version for name, parameter in model.model.named_parameters()}


def _forwards(model: Any) -> dict[str, Any]:
    return {name: module.__dict__.get("forward") for name, module in model.model.named_modules()}


@pytest.fixture
def files(model: Any, loras_dir: Path) -> list[str]:
    """Files of every kind: ranks, convolutions, fused rows, biases, norms, and algorithms without a low-rank form."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    weights = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in model.model.diffusion_model.state_dict().items()
        if name.endswith(".weight")
    }
    conv = next(path for path, shape in weights.items() if len(shape) == 4 and shape[2] == 3)
    linear = next(path for path in weights if path.endswith("attn1.to_q"))
    feed = next(path for path in weights if path.endswith("ff.net.2"))
    norm = next(path for path in weights if path.endswith("norm1"))
    out, inputs = weights[linear]
    kinds = {
        "conv": {
            f"diffusion_model.{conv}.lora_down.weight": random(3, *weights[conv][1:]),
            f"diffusion_model.{conv}.lora_up.weight": random(weights[conv][0], 3, 1, 1),
        },
        "two ranks": {
            f"diffusion_model.{linear}.lora_A.weight": random(2, inputs),
            f"diffusion_model.{linear}.lora_B.weight": random(out, 2),
            f"diffusion_model.{feed}.lora_A.weight": random(5, weights[feed][1]),
            f"diffusion_model.{feed}.lora_B.weight": random(weights[feed][0], 5),
        },
        "fused": {
            f"diffusion_model.{linear.removesuffix('to_q')}to_qkv.lora_A.weight": random(4, inputs),
            f"diffusion_model.{linear.removesuffix('to_q')}to_qkv.lora_B.weight": random(3 * out, 4),
        },
        "bias and norm": {
            f"diffusion_model.{feed}.diff_b": random(weights[feed][0]),
            f"diffusion_model.{norm}.diff": random(*weights[norm]),
        },
        "dora": {
            f"diffusion_model.{feed}.lora_A.weight": random(2, weights[feed][1]),
            f"diffusion_model.{feed}.lora_B.weight": random(weights[feed][0], 2),
            f"diffusion_model.{feed}.lora_magnitude_vector": random(weights[feed][0]).abs() + 0.5,
        },
        "full": {f"diffusion_model.{feed}.diff": random(*weights[feed])},
    }
    for name, tensors in kinds.items():
        save_file(tensors, loras_dir / f"{name}.safetensors")
    return [f"{name}.safetensors" for name in kinds]


@pytest.mark.parametrize("strength", [-1.0, 0.5, 2.0])
def test_beside_the_layers_is_the_same_as_merged_for_every_kind_of_adapter(
    model: Any, run: Step, files: list[str], strength: float
) -> None:
    for name in files:
        beside, merged = (run(_apply(model, name, strength, mode)) for mode in (BRANCH, MERGE))
        assert torch.allclose(beside, merged, atol=TOLERANCE[torch.float32]), name
        assert not torch.allclose(beside, run(model), atol=1e-4), name


def test_many_chained_nodes_are_woven_to_one_pair_per_layer(
    model: Any, run: Step, style: str, files: list[str]
) -> None:
    beside = merged = model
    for number, name in enumerate([style, *files, style]):
        beside, merged = (
            _apply(patched, name, 0.1 + 0.05 * number, mode) for patched, mode in ((beside, BRANCH), (merged, MERGE))
        )
    difference = (run(beside) - run(merged)).abs().max() / run(merged).abs().max()
    assert difference <= 1e-4  # of float32 through a dozen layers whose changes are larger than their weights
    assert len(beside.injections[WEAVE]) == 1
    assert len(beside.get_attachment(PLAN).rows) == len(files) + 2


def test_another_strength_writes_no_weight_and_gives_its_own_result(model: Any, run: Step, style: str) -> None:
    run(_apply(model, style, 1.0))
    before = _versions(model)
    half = run(_apply(model, style, 0.5))
    assert _versions(model) == before
    assert torch.allclose(half, run(_apply(model, style, 0.5, MERGE)), atol=TOLERANCE[torch.float32])


def test_the_matrices_of_unchanged_files_are_kept_when_a_strength_changes(model: Any, style: str) -> None:
    one, other = _apply(model, style, 1.0), _apply(model, style, 0.5)
    assert one.get_additional_models_with_key(WEAVE)[0] is other.get_additional_models_with_key(WEAVE)[0]


def test_a_chain_of_nodes_weaves_once_and_not_for_every_node(
    model: Any, run: Step, style: str, files: list[str]
) -> None:
    chain = [model]
    for name in [style, *files[:3]]:
        chain.append(_apply(chain[-1], name, 0.5))
    run(chain[-1])
    weaves = [patched.get_additional_models_with_key(WEAVE)[0].model for patched in chain[1:]]
    assert [weave.is_built for weave in weaves] == [False, False, False, True]
    assert weaves[-1].size == sum(p.numel() * p.element_size() for p in weaves[-1].parameters())


def test_two_patched_models_at_different_strengths_do_not_see_each_other(model: Any, run: Step, style: str) -> None:
    one, other = _apply(model, style, 1.0), _apply(model, style, -0.5)
    first = run(one)
    assert not torch.allclose(run(other), first, atol=1e-3)
    assert torch.equal(run(one), first)


def test_the_base_model_is_as_before_after_use(model: Any, run: Step, style: str) -> None:
    base, weights, forwards = run(model), _weights(model), _forwards(model)
    run(_apply(_apply(model, style, 1.0), style, 0.5))
    assert torch.equal(run(model), base)
    assert _forwards(model) == forwards
    assert all(torch.equal(tensor, weights[name]) for name, tensor in _weights(model).items())


def test_the_base_model_is_as_before_when_a_patched_one_is_dropped_without_a_word(
    model: Any, run: Step, style: str
) -> None:
    forwards = _forwards(model)
    patched = _apply(model, style, 1.0)
    run(patched)
    del patched
    gc.collect()
    assert _forwards(model) == forwards


def test_a_copy_of_a_loaded_model_is_applied_to_as_any_other(model: Any, run: Step, style: str) -> None:
    loaded = _apply(model, style, 0.5)
    run(loaded)
    assert torch.allclose(
        run(_apply(loaded, style, 0.5)), run(_apply(model, style, 1.0, MERGE)), atol=TOLERANCE[torch.float32]
    )
    assert torch.allclose(run(loaded.clone()), run(loaded), atol=0)


def test_an_interrupt_while_sampling_leaves_the_base_model_as_it_was(model: Any, run: Step, style: str) -> None:
    class Stop(BaseException):
        pass

    base, forwards = run(model), _forwards(model)
    patched = _apply(model, style, 1.0)
    hook = model.model.diffusion_model.out[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(Stop()))
    try:
        with pytest.raises(Stop):
            run(patched)
    finally:
        hook.remove()
    assert torch.equal(run(model), base)
    assert _forwards(model) == forwards


def test_somebody_elses_wrapper_around_ours_keeps_working_and_holds_nothing_of_us_after(
    model: Any, run: Step, style: str
) -> None:
    class Wrapper:
        def __init__(self, module: nn.Module) -> None:
            self.module, self.original_forward, self.calls = module, module.forward, 0

        def forward(self, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return self.original_forward(*arguments, **options)

    patched = _apply(model, style, 1.0)
    expected = run(patched)
    layer = next(m for name, m in model.model.named_modules() if name.endswith("attn1.to_q"))
    wrapper = Wrapper(layer)
    layer.forward = wrapper.forward
    patched.model.eval()
    assert torch.equal(_step(patched), expected)
    assert wrapper.calls
    base = run(model)  # ejects ours while the wrapper still stands around it
    layer.forward = wrapper.original_forward
    del layer.__dict__["forward"]
    assert torch.equal(run(model), base)


def _step(patcher: Any) -> Tensor:
    """A call of a model that is loaded already."""
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 7, 768, generator=generator)
    return one_step(patcher, latent, text)


def test_the_hosts_loader_before_and_after_ours_adds_up(model: Any, run: Step, style: str, loras_dir: Path) -> None:
    import comfy.sd
    import comfy.utils

    def host(patched: Any, strength: float) -> Any:
        file = comfy.utils.load_torch_file(str(loras_dir / style))
        return comfy.sd.load_lora_for_models(patched, None, file, strength, 0.0)[0]

    mixed = host(_apply(host(model, 0.2), style, 0.2), 0.1)
    assert torch.allclose(run(mixed), run(_apply(model, style, 0.5, MERGE)), atol=TOLERANCE[torch.float32])


def test_the_hosts_own_bypass_loader_beside_ours_adds_up(model: Any, run: Step, style: str, loras_dir: Path) -> None:
    import comfy.sd
    import comfy.utils

    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no bypass loader")
    base, forwards = run(model), _forwards(model)
    file = comfy.utils.load_torch_file(str(loras_dir / style))
    for order in ("ours first", "theirs first"):
        if order == "ours first":
            both = comfy.sd.load_bypass_lora_for_models(_apply(model, style, 0.3), None, file, 0.2, 0.0)[0]
        else:
            theirs = comfy.sd.load_bypass_lora_for_models(model, None, file, 0.2, 0.0)[0]
            both = _apply(theirs, style, 0.3)
        assert torch.allclose(run(both), run(_apply(model, style, 0.5, MERGE)), atol=TOLERANCE[torch.float32]), order
        assert torch.equal(run(model), base), order
        del both
    assert all(forward is None or forward.__self__ for forward in _forwards(model).values())
    assert torch.equal(run(model), base)
    assert [name for name, forward in forwards.items() if forward is not None] == []


def test_the_matrices_are_counted_by_the_host_and_placed_with_the_model(model: Any, run: Step, style: str) -> None:
    patched = _apply(model, style, 1.0)
    (additional,) = patched.get_nested_additional_models()
    weave = additional.model
    assert additional.model_size() == weave.size > 0
    assert all(parameter.device == patched.load_device for parameter in weave.parameters())


def test_auto_decides_by_the_graph_alone_and_says_why(model: Any, run: Step, style: str) -> None:
    outputs = [ApplyLora.execute(model, style, strength, 1.0, "error", mode=AUTO) for strength in (0.5, 1.0, 0.5)]
    for output in outputs:
        run(output.args[0])
    notes = [[line for line in output.args[2].splitlines() if "auto:" in line] for output in outputs]
    assert notes[0] == notes[1] == notes[2] and len(notes[0]) == 1
    assert "predicted" in notes[0][0]


def test_a_model_whose_target_module_is_gone_says_so(model: Any, run: Step, style: str) -> None:
    patched = _apply(model, style, 1.0)
    run(model)
    block = model.model.diffusion_model.input_blocks[1][1]
    attention = block.transformer_blocks[0].attn1
    removed = attention.to_q
    del attention.to_q
    try:
        with pytest.raises(LayerGone, match="to_q"):
            run(patched)
    finally:
        attention.to_q = removed
    assert not any(isinstance(forward, BesideForward) for forward in _forwards(model).values())


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused_and_1e9_is_not(
    model: Any, run: Step, style: str, strength: float
) -> None:
    with pytest.raises(StackError, match="not a number"):
        _apply(model, style, strength)
    base = run(model)
    run(_apply(model, style, 1e9))
    assert torch.equal(run(model), base)


def test_unloading_lets_go_of_files_and_matrices(model: Any, run: Step, style: str) -> None:
    import comfy.model_management
    from lora_pack.nodes.host_files.loading import CACHE

    patched = _apply(model, style, 1.0)
    before = run(patched)
    assert len(CACHE) == 1
    comfy.model_management.unload_all_models()
    assert len(CACHE) == 0
    assert torch.equal(run(patched), before)  # what a graph still holds goes on working


@pytest.fixture(scope="module", params=["fp8", "bf16"])
def rounded(request: pytest.FixtureRequest, model: Any) -> Any:
    """The tiny model with its weights stored in few bits, computing in float32."""
    import comfy.supported_models

    stored = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16}[request.param]
    settings = comfy.supported_models.SD15(dict(CONFIG))
    settings.unet_config = dict(CONFIG)
    settings.set_inference_dtype(stored, torch.float32)
    base = settings.get_model({}, "", device="cpu").eval()
    weights = model.model.state_dict()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.copy_(weights[name].to(parameter.dtype))
    return patcher_of(base)


def _small(loras_dir: Path, tensors: Mapping[str, Tensor]) -> str:
    """The style file, made as weak as real LoRAs are: deltas of about a hundredth of the weights."""
    weak = {key: tensor * (0.05 if key.endswith("up.weight") else 1) for key, tensor in tensors.items()}
    save_file(weak, loras_dir / "weak.safetensors")
    return "weak.safetensors"


@torch.no_grad()
def _worst_error(base: Any, patched: Any, tensors: Mapping[str, Tensor]) -> float:
    """Of the change of each layer's output, relative to the exact one in float64."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([base])
    layers = {n: m for n, m in base.model.named_modules() if ".attn1.to_" in n and isinstance(m, nn.Linear)}
    generator = torch.Generator().manual_seed(6)
    inputs = {n: torch.randn(4, m.in_features, generator=generator) for n, m in layers.items()}
    before = {n: m(inputs[n]).double() for n, m in layers.items()}
    comfy.model_management.load_models_gpu([patched])
    worst = 0.0
    for n, m in layers.items():
        key = "lora_unet_" + n.removeprefix("diffusion_model.").replace(".", "_")
        up, down = (tensors[f"{key}.lora_{side}.weight"].double() for side in ("up", "down"))
        exact = inputs[n].double() @ (0.5 * 0.05 * up @ down).T  # alpha 2 of rank 4, weakened to a twentieth
        worst = max(worst, ((m(inputs[n]).double() - before[n] - exact).norm() / exact.norm()).item())
    return worst


def test_a_rounded_model_keeps_the_change_beside_it_and_loses_it_in_its_weights(
    rounded: Any, run: Step, loras_dir: Path, adapter_tensors: dict[str, Tensor]
) -> None:
    import comfy.model_management

    name = _small(loras_dir, adapter_tensors)
    errors = {
        mode: _worst_error(rounded, _apply(rounded, name, 1.0, mode), adapter_tensors) for mode in (BRANCH, MERGE)
    }
    comfy.model_management.load_models_gpu([rounded])
    print(f"[weave] realised change, relative error: {errors}")
    assert errors[BRANCH] <= 1e-4
    assert errors[MERGE] > 0.02


def test_auto_stands_beside_weights_that_a_merge_would_round(rounded: Any, style: str) -> None:
    output = ApplyLora.execute(rounded, style, 1.0, 1.0, "error", mode=AUTO)
    is_fp8 = next(p.dtype for n, p in rounded.model.named_parameters() if "to_q" in n) == torch.float8_e4m3fn
    assert ("quantised" in output.args[2]) == is_fp8


@pytest.mark.parametrize("rounded", ["fp8"], indirect=True)
def test_every_algorithm_stands_beside_a_quantised_layer(rounded: Any, model: Any, run: Step, files: list[str]) -> None:
    """Against the same adapters merged into a float32 model with the same rounded weights."""
    exact = model.clone()
    rounding = {
        name: ("diff", (rounded.model.state_dict()[name].float() - weight,))
        for name, weight in model.model.state_dict().items()
        if name.startswith("diffusion_model.")
    }
    exact.add_patches(rounding)
    for name in ("dora.safetensors", "full.safetensors", "fused.safetensors"):
        beside, merged = _apply(rounded, name, 0.7, BRANCH), _apply(exact, name, 0.7, MERGE)
        assert not beside.patches, name
        found = run(beside)
        assert torch.allclose(found, run(merged), atol=2e-4), name
        assert not torch.allclose(found, run(rounded), atol=1e-3), name


@pytest.mark.parametrize("where", ["weaving", "placing", "attaching"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), None],
    ids=["device", "cpu", "interrupt"],
)
def test_out_of_memory_or_an_interrupt_while_weaving_leaves_nothing_half_done(
    model: Any, run: Step, style: str, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception | None
) -> None:
    class Stop(BaseException):
        pass

    if where == "attaching" and error is not None:
        pytest.skip("attaching takes no memory")
    base, forwards = run(model), _forwards(model)
    expected = run(_apply(model, style, 1.0, MERGE))
    calls = 0

    def fail(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the middle
            raise Stop if error is None else error

    owner, name = {
        "weaving": (WovenLayer, "__init__"),
        "placing": (WovenLayer, "_apply"),
        "attaching": (WovenLayer, "forget_weight"),
    }[where]
    own = getattr(owner, name)
    patched = _apply(model, style, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **kw: (fail(), own(*args, **kw))[1])
        if where == "placing":
            patch.setattr(Weave, "place", lambda weave, device: weave.to(torch.float64).to(torch.float32))
        with pytest.raises(Stop if error is None else WeaveTooLarge) as caught:
            run(patched)
    if error is not None:
        assert "merge" in str(caught.value) and "\n" not in str(caught.value)
        assert isinstance(caught.value, torch.OutOfMemoryError)  # for which the host makes room
    assert _forwards(model) == forwards
    assert torch.equal(run(model), base)
    assert torch.allclose(run(patched), expected, atol=TOLERANCE[torch.float32])  # the next run works


def test_a_model_that_lost_a_layer_since_its_names_were_read_says_so_when_it_is_applied_to(
    model: Any, style: str
) -> None:
    _apply(model, style, 1.0)
    attention = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    removed = attention.to_q
    del attention.to_q
    try:
        for mode in (AUTO, BRANCH, MERGE):
            with pytest.raises(LayerGone, match="to_q"):
                _apply(model, style, 1.0, mode)
    finally:
        attention.to_q = removed


def test_a_layer_that_somebody_replaces_between_two_runs_is_looked_at_again(model: Any, run: Step, style: str) -> None:
    class Own(nn.Module):
        """A layer that only looks like none of torch's."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.weight, self.bias = linear.weight, linear.bias

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight, self.bias)

    expected = run(_apply(model, style, 1.0))
    attention = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1
    removed = attention.to_q
    run(model)
    attention.to_q = Own(removed)
    try:
        patched = _apply(model, style, 1.0)
        assert any("to_q" in key for key in patched.patches)  # can't stand beside it, so the host merges
        assert torch.allclose(run(patched), expected, atol=TOLERANCE[torch.float32])
        run(model)
    finally:
        attention.to_q = removed
    assert not _apply(model, style, 1.0).patches
