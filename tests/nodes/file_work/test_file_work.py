"""The nodes that make LoRAs of LoRAs and of checkpoints: what they report, draw, refuse, and leave when stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import FileMissing, LoraError, LoraFile, open_lora
from lora_pack.lora_core.errors import BadSetting, DifferentFamilies, FileNotWritten, NotMergeable
from lora_pack.lora_core.files.adapter_content import AdapterContent
from lora_pack.lora_core.files.lora_in_memory import NOTHING, lora_in_memory
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.lora_stack import LoraStackNode
from lora_pack.nodes.comfy_bridge import parameter_of
from lora_pack.nodes.file_work.bake_lora import BakeLora
from lora_pack.nodes.file_work.extract_lora import ExtractLora
from lora_pack.nodes.file_work.load_lora_file import LoadLoraFile
from lora_pack.nodes.file_work.merge_lora import MergeLora
from lora_pack.nodes.file_work.plot_lora import PlotLora
from lora_pack.nodes.file_work.resize_lora import ResizeLora
from lora_pack.nodes.file_work.save_lora import SaveLora
from lora_pack.nodes.file_work.similarity import SimilarityNode
from lora_pack.nodes.host_files.checkpoint_files import checkpoint_names
from safetensors.torch import load_file, save_file
from torch import Tensor

Step = Callable[[Any], Tensor]
Tensors = dict[str, Tensor]
BASE = "diffusion_models/base.safetensors"
ORDER = {
    "method": "concat", "rank": 0, "energy": 0.0, "max_error": 0.0, "size": 0.0, "density": 0.5, "spread": 0.1,
    "seed": 0, "layers": "",
}  # fmt: skip


def opened(name: str) -> LoraFile:
    return LoadLoraFile.execute(name).args[0]


def merge(model: Any, *loras: LoraFile, **order: Any) -> tuple[LoraFile, str]:
    slots = {f"lora_{number}": lora for number, lora in enumerate(loras, start=1)}
    return MergeLora.execute(**{**ORDER, **slots, **order}, model=model).args


def step_with(model: Any, run: Step, lora: LoraFile, strength: float = 1.0) -> Tensor:
    return run(ApplyLora.execute(model, "", strength, strength, "error", lora=lora).args[0])


def test_a_stack_and_sockets_are_merged_together(model: Any, run: Step, style: str, other: str) -> None:
    stack = LoraStackNode.execute(f"<lora:{style}:0.5>").args[0]
    both, report = merge(model, opened(other), lora_stack=stack, strength_1=0.25)
    wanted, _ = merge(model, opened(style), opened(other), strength_1=0.5, strength_2=0.25)
    assert torch.equal(step_with(model, run, both), step_with(model, run, wanted))
    assert report.startswith("2 merged by concat:") and "Relative error" in report


def test_one_lora_alone_is_merged_to_itself(model: Any, run: Step, style: str) -> None:
    alone, _ = merge(model, opened(style), strength_1=0.5)
    wanted = run(ApplyLora.execute(model, style, 0.5, 0.5, "error").args[0])
    assert torch.allclose(step_with(model, run, alone), wanted, atol=1e-5)


def test_strengths_of_layers_are_lines_of_text(model: Any, run: Step, style: str, other: str) -> None:
    some, _ = merge(model, opened(style), opened(other), layers="*=1,0\n\n *attn2* = 0.5\n")
    only, _ = merge(model, opened(style), layers="*attn2*=0.5")
    assert torch.allclose(step_with(model, run, some), step_with(model, run, only), atol=1e-6)


def test_dora_is_merged_with_the_weights_of_the_model_as_it_was_loaded(
    model: Any, run: Step, style: str, loras_dir: Path, adapter_tensors: Tensors
) -> None:
    weights = model.model.diffusion_model.state_dict()
    dora = dict(adapter_tensors)
    for key in adapter_tensors:
        if key.endswith(".alpha"):
            name = next(n for n in weights if "lora_unet_" + n.replace(".", "_") == key.replace(".alpha", "_weight"))
            dora[key.replace("alpha", "dora_scale")] = weights[name].norm(dim=1, keepdim=True) * 1.2
    save_file(dora, loras_dir / "dora.safetensors")
    with pytest.raises(LoraError):
        merge(None, opened("dora.safetensors"))
    patched = ApplyLora.execute(model, style, 1.0, 1.0, "error", mode="merge").args[0]
    run(patched)  # its weights hold the style now
    merged, _ = merge(patched, opened("dora.safetensors"))
    assert torch.allclose(
        step_with(model, run, merged),
        run(ApplyLora.execute(model, "dora.safetensors", 1.0, 1.0, "error").args[0]),
        atol=1e-4,
    )


def test_weights_are_read_and_not_changed(model: Any, run: Step, style: str) -> None:
    run(model)  # whatever ran before, its weights are its own now
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    run(ApplyLora.execute(model, style, 1.0, 1.0, "error", mode="merge").args[0])
    read = parameter_of(model, None)
    assert all(torch.equal(read(name), tensor) for name, tensor in before.items() if tensor.is_floating_point())
    with pytest.raises(KeyError):
        read("no such weight")


def test_a_resized_lora_tells_what_is_left(model: Any, style: str) -> None:
    resized, report = ResizeLora.execute(style, 2, 0.0, 0.0, 0.0, model=model).args
    assert "of the energy kept" in report and "rank 2 to 2" in report
    assert {e.shape[0] for key, e in resized.header.entries.items() if key.endswith("lora_down.weight")} == {2}


def test_a_rank_above_what_is_there_keeps_what_is_there_and_says_so(model: Any, style: str) -> None:
    assert "are of a rank below 99 and keep theirs" in ResizeLora.execute(style, 99, 0.0, 0.0, 0.0, model=model).args[1]


def test_pictures_are_images_of_moderate_size(model: Any, style: str, other: str) -> None:
    given = {"lora_1": opened(style), "lora_2": opened(other), "strength_2": -0.5, "model": model}
    for image in (PlotLora.execute(**given).args[0], SimilarityNode.execute(**given).args[1]):
        assert image.dtype == torch.float32 and image.shape[0] == 1 and image.shape[3] == 3
        assert 0.0 <= float(image.min()) < 0.5 and float(image.max()) == 1.0
        assert max(image.shape) < 4000
    report = SimilarityNode.execute(**given).args[0]
    assert "style.safetensors and other.safetensors: cosine" in report
    assert "of its energy in rank" in PlotLora.execute(**given).args[1]


# Saving


def test_a_saved_lora_says_what_it_was_told_to(model: Any, style: str, loras_dir: Path) -> None:
    name, _ = SaveLora.execute(opened(style), "sub/a", "as it is", "as it is", "ink wash", "a.b = c=d\n").args
    metadata = open_lora(loras_dir / name).header.metadata
    assert metadata["modelspec.trigger_phrase"] == "ink wash" and metadata["a.b"] == "c=d"


def test_a_dtype_is_rounded_to_and_the_loss_told(style: str, loras_dir: Path, adapter_tensors: Tensors) -> None:
    name, report = SaveLora.execute(opened(style), "half", dtype="bf16").args
    stored = load_file(loras_dir / name)
    assert {t.dtype for key, t in stored.items() if key.endswith("weight")} == {torch.bfloat16}
    assert "Rounding: " in report
    assert all(torch.equal(t, adapter_tensors[key]) for key, t in stored.items() if key.endswith("alpha"))


def test_a_name_that_is_taken_gets_a_number_and_the_file_stays(style: str, loras_dir: Path) -> None:
    before = (loras_dir / style).read_bytes()
    assert SaveLora.execute(opened(style), "style").args[0] == "style_2.safetensors"
    assert (loras_dir / style).read_bytes() == before


@pytest.mark.parametrize("filename", ["", "../outside", "what?", "/etc/x"])
def test_a_name_that_no_file_here_can_have_is_refused(style: str, filename: str) -> None:
    with pytest.raises(LoraError, match=r"name|loras folders"):
        SaveLora.execute(opened(style), filename)


def test_numbers_that_a_dtype_can_not_hold_are_refused_by_name(loras_dir: Path) -> None:
    large = lora_in_memory("large", AdapterContent(tensors={"a.lora_up.weight": torch.full((2, 2), 1e6)}, metadata={}))
    with pytest.raises(NotMergeable, match=r"a\.lora_up\.weight"):
        SaveLora.execute(large, "large", dtype="fp16")
    assert not list(loras_dir.iterdir())


def test_lines_of_metadata_that_are_none_are_refused(style: str) -> None:
    with pytest.raises(BadSetting, match="NAME=TEXT"):
        SaveLora.execute(opened(style), "x", metadata="no equals sign")


def test_a_folder_that_can_not_be_written_to_is_one_error_and_no_file(
    style: str, loras_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    lora = opened(style)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(FileNotWritten, match="No space left"):
            SaveLora.execute(lora, "new")
    assert [path.name for path in loras_dir.iterdir()] == [style]


# Baking


def test_a_baked_checkpoint_does_what_the_loras_do(model: Any, style: str, checkpoints: Path) -> None:
    name, report = BakeLora.execute(BASE, "mine", False, True, lora_1=opened(style), strength_1=0.5).args
    assert "Read again and compared." in report and "Rounding: 1.0000 of the strength is left" in report
    baked = load_file(checkpoints.parent / "output" / name)
    base = load_file(checkpoints / "base.safetensors")
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    lora = load_file(checkpoints.parent / "loras" / style)
    layer = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    delta = lora[f"{layer}.lora_up.weight"] @ lora[f"{layer}.lora_down.weight"] * 0.5 * 0.5
    assert torch.allclose(baked[key], base[key] + delta, atol=1e-6)


def test_a_checkpoint_is_replaced_only_on_request(style: str, checkpoints: Path) -> None:
    names = [BakeLora.execute(BASE, "mine", on, lora_1=opened(style)).args[0] for on in (False, False, True)]
    assert names == [f"diffusion_models/{name}.safetensors" for name in ("mine", "mine_2", "mine")]


def test_an_interrupted_bake_leaves_no_file_and_the_old_one_as_it_was(
    style: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    BakeLora.execute(BASE, "mine", lora_1=opened(style))
    output = checkpoints.parent / "output" / "diffusion_models"
    before = (output / "mine.safetensors").read_bytes()
    seen: list[int] = []
    from lora_pack.nodes.comfy_bridge import work_progress

    def interrupt() -> None:
        seen.append(1)
        if len(seen) == 5:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(work_progress, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        BakeLora.execute(BASE, "mine", True, lora_1=opened(style), strength_1=0.1)
    assert [path.name for path in output.iterdir()] == ["mine.safetensors"]
    assert (output / "mine.safetensors").read_bytes() == before


def test_checkpoints_are_listed_by_folder_and_others_refused_before_the_run(checkpoints: Path) -> None:
    assert checkpoint_names() == ["diffusion_models/base.safetensors", "diffusion_models/tuned.safetensors"]
    (checkpoints / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    for name in ("diffusion_models/../secret.safetensors", "etc/passwd", "diffusion_models/none.safetensors"):
        assert "no such file" in str(BakeLora.validate_inputs(checkpoint=name))
        with pytest.raises(FileMissing):
            BakeLora.execute(name, lora_1=lora_in_memory("x", NOTHING))
    answer = ExtractLora.validate_inputs(base=BASE, tuned="diffusion_models/gone.safetensors")
    assert "gone" in str(answer) and "\n" not in str(answer)
    assert ExtractLora.validate_inputs(base=None, tuned=None) is True


# Bad input


def test_the_progress_is_told_layer_by_layer_and_an_interruption_stops_it(
    model: Any, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management
    import comfy.utils

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: told.append((done, total)))
    merge(model, opened(style))
    assert told[0][0] == 0 and told[-1][0] == told[-1][1] > 10
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        merge(model, opened(style))


def test_nothing_connected_is_one_error(model: Any) -> None:
    for node in (MergeLora, SimilarityNode, PlotLora):
        with pytest.raises(BadSetting, match="No LoRA is connected"):
            node.execute(**(ORDER if node is MergeLora else {}), model=model)


def test_strengths_of_nothing_are_refused(model: Any, style: str) -> None:
    with pytest.raises(BadSetting, match="every strength is 0"):
        merge(model, opened(style), strength_1=0.0)


def test_loras_of_two_families_are_refused_with_both_names(style: str, loras_dir: Path) -> None:
    layers = {
        "sdxl": ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048),
        "flux": ("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072),
    }
    for name, (layer, out, inputs) in layers.items():
        tensors = {f"{layer}.lora_down.weight": torch.ones(4, inputs), f"{layer}.lora_up.weight": torch.ones(out, 4)}
        save_file(tensors, loras_dir / f"{name}.safetensors")
    with pytest.raises(DifferentFamilies, match=r"sdxl\.safetensors is for SDXL, flux\.safetensors is for Flux"):
        merge(None, opened("sdxl.safetensors"), opened("flux.safetensors"))


def test_loras_of_no_common_layer_stand_beside_each_other_and_it_is_told(
    model: Any, style: str, loras_dir: Path, adapter_tensors: Tensors
) -> None:
    for attention in ("attn1", "attn2"):
        half = {key: tensor for key, tensor in adapter_tensors.items() if attention in key}
        save_file(half, loras_dir / f"{attention}.safetensors")
    _, report = merge(model, opened("attn1.safetensors"), opened("attn2.safetensors"))
    assert "no layer in common" in report


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_named_with_its_layer(
    model: Any, loras_dir: Path, adapter_tensors: Tensors, number: float
) -> None:
    key = next(key for key in adapter_tensors if key.endswith("lora_up.weight"))
    bad = {**adapter_tensors, key: adapter_tensors[key].clone()}
    bad[key][0, 0] = number
    save_file(bad, loras_dir / "bad.safetensors")
    layer = key.removesuffix(".lora_up.weight")
    for work in (lambda lora: merge(model, lora), lambda lora: PlotLora.execute(lora_1=lora, model=model)):
        with pytest.raises(NotMergeable) as caught:
            work(opened("bad.safetensors"))
        assert layer in str(caught.value) and "NaN" in str(caught.value) and "\n" not in str(caught.value)
