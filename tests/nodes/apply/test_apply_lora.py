"""Apply LoRA on the real host: exact, repeatable, harmless to the base model, and clear about bad files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.devtools.hosts import Host
from lora_pack.lora_core import FamilyMismatch, LoraError, NoLayerReached, UnmatchedKeys
from lora_pack.lora_core.files.adapter_content import AdapterContent
from lora_pack.lora_core.files.lora_in_memory import lora_in_memory
from lora_pack.lora_core.weave import MERGE
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import HostPatch
from safetensors.torch import save_file
from torch import Tensor

Step = Callable[[Any], Tensor]
TOLERANCE = 1e-5  # float32, outputs of order 1


def _apply(model: Any, name: str, strength: float = 1.0, on_unmatched: str = "report", mode: str = "auto") -> Any:
    return ApplyLora.execute(model, name, strength, strength, on_unmatched, mode=mode)


def _host_loader(model: Any, path: Path, strength: float) -> Any:
    import comfy.sd
    import comfy.utils

    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), strength, 0.0)[0]


@pytest.mark.parametrize("strength", [-1.0, 0.5, 1.0, 2.0])
def test_the_result_is_that_of_the_hosts_own_loader(
    model: Any, run: Step, style: str, loras_dir: Path, strength: float
) -> None:
    base, ours = run(model), run(_apply(model, style, strength).args[0])
    assert torch.allclose(ours, run(_host_loader(model, loras_dir / style, strength)), atol=TOLERANCE)
    assert not torch.allclose(ours, base, atol=1e-2)


def test_an_adapter_in_memory_is_applied_as_its_file_is_and_in_the_place_of_the_file(
    model: Any, run: Step, style: str, adapter_tensors: dict[str, Tensor]
) -> None:
    held = lora_in_memory("trained", AdapterContent(tensors=adapter_tensors, metadata={}))
    applied = ApplyLora.execute(model, "no such file", 0.7, 0.7, "error", lora=held)
    assert torch.equal(run(applied.args[0]), run(_apply(model, style, 0.7).args[0]))
    assert "trained" in applied.args[2]
    assert ApplyLora.validate_inputs(lora_name="no such file", lora=None) is True  # the host's None: connected
    assert ApplyLora.validate_inputs(lora_name="no such file") is not True


def test_strength_0_is_the_base_model_to_the_bit(model: Any, run: Step, style: str) -> None:
    assert torch.equal(run(_apply(model, style, 0.0).args[0]), run(model))


def test_two_chained_nodes_add_up_and_their_order_does_not_matter(model: Any, run: Step, style: str) -> None:
    one = _apply(_apply(model, style, 0.7).args[0], style, -0.2).args[0]
    other = _apply(_apply(model, style, -0.2).args[0], style, 0.7).args[0]
    assert torch.allclose(run(one), run(_apply(model, style, 0.5).args[0]), atol=TOLERANCE)
    assert torch.allclose(run(one), run(other), atol=TOLERANCE)


def test_the_hosts_loader_before_and_after_ours_adds_up_too(model: Any, run: Step, style: str, loras_dir: Path) -> None:
    mixed = _host_loader(
        _apply(_host_loader(model, loras_dir / style, 0.2), style, 0.2).args[0], loras_dir / style, 0.1
    )
    assert torch.allclose(run(mixed), run(_apply(model, style, 0.5).args[0]), atol=TOLERANCE)


def test_the_base_model_is_bit_equal_after_every_kind_of_use(model: Any, run: Step, style: str) -> None:
    before = run(model)
    weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    run(_apply(model, style, 1.5).args[0])
    assert torch.equal(run(model), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


def test_an_overwritten_file_is_read_again(
    model: Any, run: Step, style: str, loras_dir: Path, adapter_tensors: dict[str, Tensor]
) -> None:
    before, mark = run(_apply(model, style).args[0]), ApplyLora.fingerprint_inputs(lora_name=style)
    save_file({key: tensor * 1.1 for key, tensor in adapter_tensors.items()}, loras_dir / style)
    os.utime(loras_dir / style, ns=(1, 1))
    assert ApplyLora.fingerprint_inputs(lora_name=style) != mark
    assert not torch.allclose(run(_apply(model, style).args[0]), before, atol=1e-3)


def test_an_unchanged_file_is_not_read_again(model: Any, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_pack.nodes.host_files import loading

    _apply(model, style)
    monkeypatch.setattr(loading, "load_lora", None)  # a second read would fail
    _apply(model, style, 0.3)


def test_the_report_is_an_output_and_in_the_ui(model: Any, style: str, adapter_tensors: dict[str, Tensor]) -> None:
    output = _apply(model, style)
    assert output.args[2].startswith("style.safetensors: all keys matched;")
    assert output.ui["text"] == [output.args[2]]
    (report,) = output.ui["lora_loom_reports"]
    assert report["matched"] == report["keys"] == len(adapter_tensors)


def test_the_files_metadata_is_left_where_the_hosts_nodes_look_for_it(
    model: Any, loras_dir: Path, adapter_tensors: dict[str, Tensor]
) -> None:
    save_file(adapter_tensors, loras_dir / "a.safetensors", metadata={"ss_x": "y"})
    patched = _apply(model, "a.safetensors").args[0]
    assert patched.get_attachment("lora_metadata") == {"ss_x": "y"}


def test_a_patch_rebuilt_by_the_host_on_copied_weights_does_the_same(model: Any, style: str) -> None:
    patches = _apply(model, style, mode=MERGE).args[0].patches
    key, ((strength, patch, *_),) = next(iter(patches.items()))
    assert isinstance(patch, HostPatch)
    copies = tuple(part.clone() if isinstance(part, Tensor) else part for part in patch.weights)
    rebuilt = type(patch)(patch.loaded_keys, copies)
    weight = model.model.state_dict()[key]
    results = [p.calculate_weight(weight.clone(), key, strength, 1.0, None, None) for p in (patch, rebuilt)]
    assert torch.equal(*results)


# Bad input: each one error, and the next run of the base model is bit-equal.


def _bad(tensors: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    first = next(key for key in tensors if key.endswith("lora_up.weight"))
    down = first.replace("lora_up", "lora_down")
    changed = {key: tensor.clone() for key, tensor in tensors.items()}
    match what:
        case "nan":
            changed[first][0, 0] = float("nan")
        case "inf":
            changed[first][0, 0] = float("inf")
        case "shape":
            changed[first] = changed[first][:-1].contiguous()
        case "rank 0":
            changed[first], changed[down] = changed[first][:, :0].contiguous(), changed[down][:0].contiguous()
        case "misspelled":
            changed[first.replace("attn1", "attn9")] = changed.pop(first)
        case _:
            raise AssertionError(what)
    return changed


@pytest.mark.parametrize("what", ["nan", "inf", "shape", "rank 0", "misspelled"])
def test_a_bad_layer_is_reported_and_the_rest_applied(
    model: Any, run: Step, loras_dir: Path, adapter_tensors: dict[str, Tensor], what: str
) -> None:
    save_file(_bad(adapter_tensors, what), loras_dir / "bad.safetensors")
    before = run(model)
    patched, _, report = _apply(model, "bad.safetensors").args
    assert "reached in part" in report and "Unmatched:" in report
    assert torch.isfinite(run(patched)).all()
    with pytest.raises(UnmatchedKeys):
        _apply(model, "bad.safetensors", on_unmatched="error")
    assert torch.equal(run(model), before)


def test_alpha_0_changes_nothing_and_says_so(
    model: Any, run: Step, loras_dir: Path, adapter_tensors: dict[str, Tensor]
) -> None:
    dead = {key: torch.tensor(0.0) if key.endswith("alpha") else t for key, t in adapter_tensors.items()}
    save_file(dead, loras_dir / "dead.safetensors")
    patched, _, report = _apply(model, "dead.safetensors").args
    assert "do nothing" in report
    assert torch.equal(run(patched), run(model))


def test_a_lora_of_another_family_names_both_and_applies_nothing(model: Any, run: Step, loras_dir: Path) -> None:
    before = run(model)
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    sdxl = {f"{layer}.lora_down.weight": torch.zeros(4, 2048), f"{layer}.lora_up.weight": torch.zeros(640, 4)}
    save_file(sdxl, loras_dir / "sdxl.safetensors")
    with pytest.raises(FamilyMismatch, match=r"made for SDXL, but this model is SD1\.5"):
        _apply(model, "sdxl.safetensors")
    assert torch.equal(run(model), before)


def test_ten_thousand_keys_of_rubbish_are_one_error(model: Any, run: Step, loras_dir: Path) -> None:
    before = run(model)
    save_file({f"rubbish.{number}": torch.zeros(1) for number in range(10_000)}, loras_dir / "r.safetensors")
    with pytest.raises(NoLayerReached) as caught:
        _apply(model, "r.safetensors")
    assert "9990 more" in str(caught.value) and len(str(caught.value)) < 5000
    assert torch.equal(run(model), before)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.safetensors", b"", "empty"),
        ("cut.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{", "cut off"),
        ("noise.safetensors", b"\x99" * 64, "no safetensors file"),
        ("pickle.safetensors", b"\x80\x04\x95abcdefgh", "pickle"),
        ("zip.safetensors", b"PK\x03\x04abcdefgh", "pickle"),
        ("old.ckpt", b"\x80\x02}q\x00.", "pickle"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_before_the_run(
    model: Any, loras_dir: Path, name: str, content: bytes, words: str
) -> None:
    (loras_dir / name).write_bytes(content)
    answer = ApplyLora.validate_inputs(lora_name=name)
    assert isinstance(answer, str) and words in answer and "\n" not in answer
    with pytest.raises(LoraError, match=words):  # also when the name comes over a link and is checked only now
        _apply(model, name)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "C:\\x.safetensors", "..\\x", "a\0b"],
)
def test_a_path_outside_the_loras_folders_is_refused(host: Host, loras_dir: Path, name: str) -> None:
    save_file({"a": torch.zeros(1)}, loras_dir.parent / "outside.safetensors")
    answer = ApplyLora.validate_inputs(lora_name=name)
    assert isinstance(answer, str) and "only files in the loras folders" in answer


def test_a_file_deleted_between_listing_and_running_is_one_error(model: Any, style: str, loras_dir: Path) -> None:
    (loras_dir / style).unlink()
    assert isinstance(ApplyLora.validate_inputs(lora_name=style), str)
    with pytest.raises(LoraError, match="style"):
        _apply(model, style)


def test_a_missing_file_names_similar_ones(style: str) -> None:
    answer = ApplyLora.validate_inputs(lora_name="stile.safetensors")
    assert isinstance(answer, str) and "style.safetensors" in answer


@pytest.mark.parametrize("name", ["sub\\a b.safetensors", "sub/a b.safetensors", "a b", "sub/a b"])
def test_names_with_either_slash_or_without_folder_and_ending_find_the_file(
    host: Host, loras_dir: Path, name: str
) -> None:
    from lora_pack.nodes.host_files.lora_folders import find_lora

    (loras_dir / "sub").mkdir()
    save_file({"a": torch.zeros(1)}, loras_dir / "sub" / "a b.safetensors")
    assert find_lora(name) == loras_dir / "sub" / "a b.safetensors"
