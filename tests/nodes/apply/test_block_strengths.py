"""Strengths of single blocks on the real host, against files whose factors were scaled by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import BadBlocks, BadSetting
from lora_pack.lora_core.weave import parse_schedule
from lora_pack.lora_core.weave.block_strengths import parse_block_strengths
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.apply_stack import ApplyStack
from lora_pack.nodes.apply.block_strengths import BlockStrengthsNode
from lora_pack.nodes.apply.lora_stack import LoraStackNode
from lora_pack.nodes.file_work.source_inputs import given_sources
from lora_pack.nodes.host_files import loading
from safetensors.torch import save_file
from torch import Tensor

Step = Callable[[Any], Tensor]
TOLERANCE = 1e-5  # float32, outputs of order 1


def _apply(model: Any, name: str, text: str, mode: str = "branch", strength: float = 0.8) -> Any:
    blocks = BlockStrengthsNode.execute(text).args[0]
    return ApplyLora.execute(model, name, strength, 1.0, "error", mode=mode, blocks=blocks).args


def _sample(model: Any) -> Tensor:
    """Two steps; a schedule is followed where the host samples."""
    import comfy.sample

    generator = torch.Generator().manual_seed(5)
    conds = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    start = torch.zeros_like(noise)
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "simple", conds[0], conds[1], start, disable_pbar=True, seed=1
    )


def _scaled(tensors: dict[str, Tensor], folder: Path, factor_of: Callable[[str], float]) -> str:
    scaled = {key: t * factor_of(key) if "lora_up" in key else t for key, t in tensors.items()}
    save_file(scaled, folder / "scaled.safetensors")
    return "scaled.safetensors"


def _by_hand(key: str) -> float:
    return 0.0 if "_output_blocks_" in key else -0.5 if "_middle_block_" in key else 1.0


@pytest.mark.parametrize("mode", ["branch", "merge", "auto"])
def test_the_result_is_that_of_a_file_scaled_by_hand(
    model: Any, run: Step, style: str, loras_dir: Path, adapter_tensors: dict[str, Tensor], mode: str
) -> None:
    scaled = _scaled(adapter_tensors, loras_dir, _by_hand)
    plain, expected = run(_apply(model, style, "")[0]), run(_apply(model, scaled, "")[0])
    found = run(_apply(model, style, "mid=-0.5; out*=0", mode)[0])
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert not torch.allclose(found, plain, atol=1e-2)


KINDS = ("dora", "oft", "lokr", "bias and norm", "full")
MIDDLE, INPUT = "middle_block.1.transformer_blocks.0", "input_blocks.1.1.transformer_blocks.0"


def _tensors(kind: str, block: str, model: Any) -> dict[str, Tensor]:
    """An adapter of a kind on one layer of a block."""
    generator = torch.Generator().manual_seed(len(block))
    layer = f"{block}.ff.net.2"
    out, inputs = model.model.diffusion_model.get_submodule(layer).weight.shape

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    fields: dict[str, Tensor] = {
        "dora": {
            "lora_A.weight": random(2, inputs), "lora_B.weight": random(out, 2),
            "lora_magnitude_vector": random(out).abs() + 0.5,
        },
        "oft": {"oft_blocks": random(4, out // 4, out // 4)},
        "lokr": {"lokr_w1": random(4, 4), "lokr_w2": random(out // 4, inputs // 4)},
        "bias and norm": {"diff_b": random(out)},
        "full": {"diff": random(out, inputs)},
    }[kind]  # fmt: skip
    in_kohyas_names = kind in ("oft", "lokr")
    prefix = f"lora_unet_{layer.replace('.', '_')}" if in_kohyas_names else f"diffusion_model.{layer}"
    tensors = {f"{prefix}.{field}": tensor for field, tensor in fields.items()}
    if kind == "bias and norm":
        norm = model.model.diffusion_model.get_submodule(f"{block}.norm1")
        tensors[f"diffusion_model.{block}.norm1.diff"] = random(*norm.weight.shape)
    return tensors


@pytest.mark.parametrize("mode", ["branch", "merge"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_gives_what_a_file_for_each_block_gives_at_a_strength_of_its_own(
    model: Any, run: Step, loras_dir: Path, kind: str, mode: str
) -> None:
    middle, first = _tensors(kind, MIDDLE, model), _tensors(kind, INPUT, model)
    for name, tensors in {"both": middle | first, "middle": middle, "first": first}.items():
        save_file(tensors, loras_dir / f"{name}.safetensors")
    apart = _apply(model, "middle.safetensors", "", strength=-0.4)[0]
    expected = run(_apply(apart, "first.safetensors", "", strength=0.8)[0])
    found = run(_apply(model, "both.safetensors", "mid=-0.5", mode, strength=0.8)[0])
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert not torch.allclose(found, run(_apply(model, "both.safetensors", "", mode)[0]), atol=1e-3)


def test_factor_0_of_the_text_encoder_leaves_it_as_it_was(demo: tuple[Any, Any, Any], loras_dir: Path) -> None:
    model, clip, _ = demo
    name = "demo_shape_star.safetensors"
    (loras_dir / name).write_bytes((Path(__file__).parents[3] / "demo" / "loras" / name).read_bytes())

    def encoded(text: str) -> Tensor:
        blocks = parse_block_strengths(text)
        found = ApplyLora.execute(model, name, 1.0, 1.0, "error", clip=clip, blocks=blocks).args[1]
        return found.encode_from_tokens(found.tokenize("red star on white"))

    bare = clip.encode_from_tokens(clip.tokenize("red star on white"))
    assert torch.equal(encoded("clip_l.*=0"), bare)
    assert not torch.allclose(encoded(""), bare, atol=1e-3)


def test_factors_of_all_blocks_at_once_are_a_strength(model: Any, run: Step, style: str) -> None:
    found = run(_apply(model, style, "*=0.5, in*=2, mid=2, out*=2")[0])
    assert torch.allclose(found, run(_apply(model, style, "")[0]), atol=TOLERANCE)


def test_factor_0_everywhere_is_the_base_model_to_the_bit(model: Any, run: Step, style: str) -> None:
    assert torch.equal(run(_apply(model, style, "*=0")[0]), run(model))


def test_another_factor_of_the_same_blocks_reads_no_file_and_weaves_nothing_anew(
    model: Any, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    woven = [_apply(model, style, "mid=0.5")[0].get_additional_models_with_key("lora_loom")]
    monkeypatch.setattr(loading, "load_lora", None)  # which would be called to read the file
    woven.append(_apply(model, style, "mid=0.7")[0].get_additional_models_with_key("lora_loom"))
    assert woven[0][0].model is woven[1][0].model


def test_the_report_says_the_factors(model: Any, style: str) -> None:
    assert "block strengths: mid=0.5" in _apply(model, style, "mid=0.5")[2]


def test_names_that_the_model_does_not_have_are_listed_with_those_that_it_has(model: Any, style: str) -> None:
    with pytest.raises(BadBlocks, match=r"'nowhere'.*'in99'.*Blocks of this model: .*in1.*mid.*out1"):
        _apply(model, style, "nowhere=1, mid=0.5, in99=0")


def test_text_that_cannot_be_read_is_refused_before_the_run_with_all_of_its_parts() -> None:
    told = str(BlockStrengthsNode.validate_inputs("in4, mid=x, out*=1e9, =1, a=nan, in1=0.5"))
    assert all(f"'{part}'" in told for part in ("in4", "mid=x", "out*=1e9", "=1", "a=nan"))
    assert "'in1=0.5'" not in told
    assert BlockStrengthsNode.validate_inputs("in1=0.5") is True


def test_what_it_writes_it_reads() -> None:
    blocks = parse_block_strengths("in4=0.5;mid=1\nout*=-2e-1")
    assert parse_block_strengths(blocks.text()) == blocks


def test_rows_of_a_stack_have_block_strengths_and_schedules_of_their_own(model: Any, style: str) -> None:
    stack = LoraStackNode.execute(f"<lora:{style}:0.8:blocks=mid=-0.5;out*=0:schedule=0:0.5>").args[0]
    assert stack == [(style, 0.8, 0.8)]  # what other packs see
    applied = ApplyStack.execute(model, stack, "error")
    expected = ApplyLora.execute(
        model,
        style,
        0.8,
        0.8,
        "error",
        schedule=parse_schedule("0:0.5"),
        blocks=parse_block_strengths("mid=-0.5, out*=0"),
    )
    found, halved = _sample(applied.args[0]), _sample(_apply(model, style, "mid=-0.5, out*=0", strength=0.4)[0])
    assert torch.equal(found, _sample(expected.args[0]))
    size = float(halved.abs().max())
    assert torch.allclose(found, halved, atol=5e-5 * size, rtol=0)  # the schedule is 0.5 at every step
    assert not torch.allclose(found, _sample(_apply(model, style, "mid=-0.5, out*=0")[0]), atol=1e-2 * size, rtol=0)
    assert "block strengths: mid=-0.5, out*=0" in applied.args[2]


def test_merging_refuses_rows_that_it_would_have_to_cut(style: str) -> None:
    stack = LoraStackNode.execute(f"<lora:{style}:1:blocks=mid=0>").args[0]
    with pytest.raises(BadSetting, match=style):
        given_sources(stack, {})
