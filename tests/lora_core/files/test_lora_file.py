"""Tensors come out of a file as the safetensors library gives them, in every dtype, and stay when the file goes."""

import os
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import FileDamaged, FileMissing, open_lora
from lora_pack.lora_core.files.lora_file import identify
from safetensors.torch import load_file, save_file

from ..adapter_files import write_adapter

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def test_every_dtype_and_shape_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {f"t{place}": torch.randn(3, 5).to(dtype) for place, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 4), "odd": torch.ones(3, dtype=torch.uint8)}
    path = write_adapter(tmp_path / "a.safetensors", tensors)
    expected = load_file(path)
    with open_lora(path).tensors() as reader:
        found = {key: reader.tensor(key) for key in tensors}
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_tensors_outlive_a_file_that_is_cut_short_after_reading(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", {"a": torch.ones(100_000)})
    with open_lora(path).tensors() as reader:
        tensor = reader.tensor("a")
    os.truncate(path, 10)  # a tensor still mapped onto the file would end the process at the next line
    assert tensor.sum() == 100_000


def test_a_file_that_changed_since_it_was_opened_is_not_read(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", {"a": torch.ones(4)})
    file = open_lora(path)
    write_adapter(path, {"a": torch.ones(5)})
    with pytest.raises(FileDamaged, match="changed"), file.tensors():
        pass


def test_a_file_deleted_since_it_was_opened_is_missing(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", {"a": torch.ones(4)})
    file = open_lora(path)
    path.unlink()
    with pytest.raises(FileMissing), file.tensors():
        pass


def test_an_overwritten_file_has_another_identity(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", {"a": torch.ones(4)})
    before = open_lora(path).identity
    os.utime(path, ns=(1, 1))
    assert open_lora(path).identity != before


def test_the_peft_configuration_beside_the_file_is_read(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "adapter_model.safetensors", {"a": torch.ones(4)})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert open_lora(path).peft_config == {"lora_alpha": 16}


def test_a_configuration_among_many_loras_belongs_to_none_of_them(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "style.safetensors", {"a": torch.ones(4)})
    write_adapter(tmp_path / "other.safetensors", {"a": torch.ones(4)})
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert open_lora(path).peft_config is None


def test_a_broken_configuration_is_told(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "adapter_model.safetensors", {"a": torch.ones(4)})
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(FileDamaged, match=r"adapter_config\.json"):
        open_lora(path)


@pytest.mark.parametrize("at", [20, -1], ids=["its header", "its last byte"])
def test_a_file_of_the_same_size_and_time_is_told_by(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(300, 300)}, path, {"title": "one"})
    os.utime(path, ns=(1, 1))
    before = identify(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    after = identify(path)
    assert (after.size, after.modified) == (before.size, before.modified) and after != before
