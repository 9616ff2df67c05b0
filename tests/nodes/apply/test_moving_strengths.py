"""Strengths that change over the steps or from image to image, on the real host, against runs with fixed ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import NotOverSteps, NotPerImage
from lora_pack.lora_core.weave import AUTO, BRANCH, MERGE, Schedule, parse_schedule
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.apply_stack import ApplyStack
from lora_pack.nodes.comfy_bridge import WEAVE, Moves, apply_to_model, model_names
from lora_pack.nodes.comfy_bridge.moving_strengths import position_of
from lora_pack.nodes.host_files.loading import CACHE
from safetensors.torch import save_file
from torch import Tensor

STEPS = 4
TOLERANCE = 5e-5  # of the largest number of a latent, in float32 through four steps


def _apply(model: Any, name: str, strength: float = 1.0, mode: str = BRANCH, schedule: Schedule | None = None) -> Any:
    return ApplyLora.execute(model, name, strength, 1.0, "error", mode=mode, schedule=schedule).args[0]


def _per_image(model: Any, name: str, strengths: Sequence[float]) -> Any:
    loaded = CACHE.get(name, model_names(model, None))
    return apply_to_model(model, loaded, 1.0, AUTO, Moves(images=tuple(strengths))).patcher


def _sample(
    model: Any, images: int = 1, cfg: float = 2.0, latent: Tensor | None = None, steps: tuple[int, int] | None = None
) -> Tensor:
    """Four steps, or some of them, with and without a prompt; every image begins with the same noise."""
    import comfy.sample

    generator = torch.Generator().manual_seed(5)
    conds = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    noise = torch.randn(1, 4, 16, 16, generator=generator).repeat(images, 1, 1, 1)
    part: dict[str, Any] = {}
    if steps is not None:
        part = {"start_step": steps[0], "last_step": steps[1], "disable_noise": steps[0] > 0}
        noise = torch.zeros_like(noise) if steps[0] > 0 else noise
    start = torch.zeros_like(noise) if latent is None else latent
    return comfy.sample.sample(
        model, noise, STEPS, cfg, "euler", "simple", *conds, start, disable_pbar=True, seed=1, **part
    )


def _positions(model: Any) -> list[float]:
    """Of the steps of `_sample`, from the host's own sigmas."""
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)[:-1]
    return [position_of(sampling, float(sigma)) for sigma in sigmas]


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=TOLERANCE * float(expected.abs().max()), rtol=0)


def _stands_out(found: Tensor, expected: Tensor, *others: Tensor) -> bool:
    """Whether a latent is the expected one and none of the others: 50 times as far from each of them."""
    error = float((found - expected).abs().max())
    distances = [float((other - expected).abs().max()) for other in others]
    print(f"[moving] error {error:.2g}, distances {distances}")
    return 50 * error <= min(distances)


@pytest.fixture
def kinds(model: Any, loras_dir: Path) -> Mapping[str, str]:
    """A file of each kind of branch: linear, convolution, bias, and algorithms without a low-rank form."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 3.0  # one layer alone should be seen in the latent

    shapes = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in model.model.diffusion_model.state_dict().items()
        if name.endswith(".weight")
    }
    conv = "out.2"
    feed = next(path for path in shapes if path.endswith("ff.net.2"))
    norm = next(path for path in shapes if path.endswith("norm3"))
    out, inputs = shapes[feed]
    wide = "time_embed.2"  # every block reads it: a change that keeps the size of a layer is seen above rounding
    many = shapes[wide][0]
    low_rank = {"lora_A.weight": random(2, inputs), "lora_B.weight": random(out, 2)}
    layers: Mapping[str, tuple[str, Mapping[str, Tensor]]] = {
        "linear": (feed, low_rank),
        "conv": (
            conv,
            {"lora_down.weight": random(3, *shapes[conv][1:]), "lora_up.weight": random(shapes[conv][0], 3, 1, 1)},
        ),
        "bias": (feed, {"diff_b": random(out)}),
        "conv bias": (conv, {"diff_b": random(shapes[conv][0])}),
        "dora": (
            wide,
            {
                "lora_A.weight": random(2, shapes[wide][1]),
                "lora_B.weight": random(many, 2),
                "lora_magnitude_vector": random(many).abs() + 0.5,
            },
        ),
        "oft": (wide, {"oft_blocks": random(4, many // 4, many // 4)}),
        "layer norm": (norm, {"diff": random(*shapes[norm]), "diff_b": random(*shapes[norm])}),
        "group norm": ("out.0", {"diff": random(*shapes["out.0"]), "diff_b": random(*shapes["out.0"])}),
        "replaced": (norm, {"set_weight": random(*shapes[norm])}),
        "full conv": (conv, {"diff": random(*shapes[conv])}),
    }
    for name, (layer, tensors) in layers.items():
        prefix = "lora_unet_" + layer.replace(".", "_") if name == "oft" else f"diffusion_model.{layer}"
        save_file({f"{prefix}.{key}": tensor for key, tensor in tensors.items()}, loras_dir / f"{name}.safetensors")
    return {name: f"{name}.safetensors" for name in layers}


KINDS = ("linear", "conv", "bias", "conv bias", "dora", "oft", "layer norm", "group norm", "replaced", "full conv")


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_that_jumps_is_the_same_as_two_runs_with_fixed_ones(
    model: Any, kinds: Mapping[str, str], kind: str
) -> None:
    name = kinds[kind]
    switch = _positions(model)[2]
    first = _sample(_apply(model, name, 0.8, MERGE), steps=(0, 2))
    expected = _sample(_apply(model, name, -0.4, MERGE), latent=first, steps=(2, STEPS))
    schedule = Schedule(((0.0, 1.0), (switch, 1.0), (switch, -0.5)))
    found = _sample(_apply(model, name, 0.8, AUTO, schedule))
    assert _stands_out(found, expected, _sample(_apply(model, name, 0.8, BRANCH)), _sample(model))


def test_a_slope_is_the_same_as_one_run_for_each_step_at_the_strength_of_its_position(model: Any, style: str) -> None:
    schedule = parse_schedule("0:1.5, 0.6:0, 1:1")
    latent = None
    for step, position in enumerate(_positions(model)):
        fixed = _apply(model, style, 0.5 * schedule.factor(position), BRANCH)
        latent = _sample(fixed, latent=latent, steps=(step, step + 1))
    assert latent is not None
    assert _close(_sample(_apply(model, style, 0.5, AUTO, schedule)), latent)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_of_a_batch_at_its_own_strength_is_the_image_of_a_run_of_its_own(
    model: Any, kinds: Mapping[str, str], kind: str
) -> None:
    strengths = (0.0, 0.5, -1.0)
    batch = _sample(_per_image(model, kinds[kind], strengths), images=len(strengths))
    alone = [_sample(_apply(model, kinds[kind], strength)) for strength in strengths]
    for number, image in enumerate(batch):
        assert _stands_out(image[None], alone[number], *(alone[:number] + alone[number + 1 :]))


def test_a_schedule_and_strengths_of_images_and_a_fixed_file_add_up(model: Any, style: str, other: str) -> None:
    schedule, strengths = parse_schedule("0:0, 0.5:1"), (0.3, 0.9)
    fixed = _apply(model, style, 0.4)
    batch = _sample(_per_image(_apply(fixed, other, 0.5, AUTO, schedule), style, strengths), images=2)
    for image, strength in zip(batch, strengths, strict=True):
        alone = _apply(_apply(fixed, other, 0.5, AUTO, schedule), style, strength)
        assert _close(image[None], _sample(alone))


def test_the_same_file_fixed_and_with_a_schedule_counts_twice(model: Any, style: str) -> None:
    both = _apply(_apply(model, style, 0.3), style, 0.2, AUTO, parse_schedule("0:2"))
    assert _close(_sample(both), _sample(_apply(model, style, 0.7)))


def test_every_file_of_a_stack_follows_the_schedule(model: Any, style: str, other: str) -> None:
    rows = [(style, 0.4, 0.0), (other, 0.6, 0.0)]
    output = ApplyStack.execute(model, rows, "error", schedule=parse_schedule("0:0.5"))
    expected = ApplyStack.execute(model, [(style, 0.2, 0.0), (other, 0.3, 0.0)], "error").args[0]
    assert _close(_sample(output.args[0]), _sample(expected))
    assert output.args[2].count("(position:factor): 0:0.5") == 2


def test_a_schedule_of_one_everywhere_gives_the_fixed_picture_to_the_bit(model: Any, style: str) -> None:
    found = _sample(_apply(model, style, 0.7, BRANCH, parse_schedule("0:1, 1:1")))
    assert torch.equal(found, _sample(_apply(model, style, 0.7, BRANCH)))


def test_the_strengths_and_the_model_are_as_before_after_a_run_and_after_an_interrupt(model: Any, style: str) -> None:
    class Stop(BaseException):
        pass

    base = _sample(model)
    plain, moving = _apply(model, style, 0.7), _apply(model, style, 0.7, AUTO, parse_schedule("0:0, 1:2"))
    expected, moved = _sample(plain), _sample(moving)
    weave = moving.get_additional_models_with_key(WEAVE)[0].model
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stop

    hook = model.model.diffusion_model.out[2].register_forward_pre_hook(stop)
    try:
        with pytest.raises(Stop):
            _sample(moving)
    finally:
        hook.remove()
    layers = list(weave.build().values())
    assert all(torch.equal(layer.rank_strengths.alike, torch.full((layer.rank,), 0.7)) for layer in layers)
    assert all(layer.rank_strengths.each is None for layer in layers)
    assert torch.equal(_sample(plain), expected)
    assert torch.equal(_sample(moving), moved)
    assert torch.equal(_sample(model), base)


def test_a_chain_of_nodes_has_one_wrapper_and_a_copy_keeps_the_schedule(model: Any, style: str, other: str) -> None:
    import comfy.patcher_extension

    first = _apply(model, style, 0.5, AUTO, parse_schedule("0:1, 1:0"))
    before = _sample(first)
    second = _apply(first, other, 0.5)
    kinds = second.wrappers[comfy.patcher_extension.WrappersMP.APPLY_MODEL]
    assert [len(group) for group in kinds.values()] == [1]
    assert torch.equal(_sample(second.clone()), _sample(second))
    assert torch.equal(_sample(first), before)
    assert not _close(_sample(second), _sample(_apply(_apply(model, style, 0.5), other, 0.5)))


def test_a_file_merged_behind_a_schedule_leaves_the_schedule_beside_the_layers(
    model: Any, style: str, other: str
) -> None:
    moving = _apply(model, style, 0.5, AUTO, parse_schedule("0:1, 1:0"))
    found = _apply(moving, other, 0.5, MERGE)
    assert found.patches
    expected, fixed = _sample(_apply(moving, other, 0.5)), _apply(_apply(model, style, 0.5), other, 0.5)
    assert _stands_out(_sample(found), expected, _sample(moving), _sample(fixed))


def test_merge_with_a_schedule_says_what_to_do(model: Any, style: str) -> None:
    with pytest.raises(NotOverSteps, match=r"'merge'.*auto"):
        _apply(model, style, 1.0, MERGE, parse_schedule("0:1, 1:0"))


def test_a_layer_that_nothing_can_stand_beside_is_named(
    model: Any, style: str, adapter_tensors: Mapping[str, Tensor], loras_dir: Path
) -> None:
    class Own(torch.nn.Module):
        """A norm of a class of its own."""

        def __init__(self, norm: torch.nn.LayerNorm) -> None:
            super().__init__()
            self.weight, self.bias, self.shape = norm.weight, norm.bias, norm.normalized_shape

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.layer_norm(x, self.shape, self.weight, self.bias)

    block = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]
    path = "diffusion_model.input_blocks.1.1.transformer_blocks.0.norm3"
    save_file({**adapter_tensors, f"{path}.diff": torch.ones(32)}, loras_dir / "norm.safetensors")
    known, block.norm3 = block.norm3, Own(block.norm3)
    try:
        _apply(model, "norm.safetensors", 1.0)  # merged at a fixed strength
        with pytest.raises(NotOverSteps, match="norm3"):
            _apply(model, "norm.safetensors", 1.0, AUTO, parse_schedule("0:1, 1:0"))
    finally:
        block.norm3 = known


def test_auto_chooses_the_branch_and_says_why(model: Any, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_pack.lora_core.weave import policy

    monkeypatch.setattr(policy, "REMERGE_SECONDS", 0.0)
    merged = ApplyLora.execute(model, style, 1.0, 1.0, "error", mode=AUTO)
    assert "merged into the weights" in merged.args[2]
    output = ApplyLora.execute(model, style, 1.0, 1.0, "error", mode=AUTO, schedule=parse_schedule("0:1, 1:0"))
    assert "auto: the strength changes over the steps" in output.args[2]
    assert not output.args[0].patches


def test_a_batch_of_another_size_than_the_strengths_is_refused(model: Any, style: str) -> None:
    base = _sample(model, images=4)
    patched = _per_image(model, style, (0.1, 0.2, 0.3))
    with pytest.raises(NotPerImage, match=r"3 images.*4 images"):
        _sample(patched, images=4)
    assert torch.equal(_sample(model, images=4), base)


@pytest.mark.parametrize("flow", [False, True], ids=["discrete", "flow"])
def test_a_position_is_what_the_host_calls_percent(model: Any, flow: bool) -> None:
    import comfy.model_sampling

    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow() if flow else model.get_model_object("model_sampling")
    for percent in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        assert position_of(sampling, float(sampling.percent_to_sigma(percent))) == pytest.approx(percent, abs=1e-4)
    assert position_of(sampling, float(sampling.sigma_max)) <= 1e-3
