"""A file that can't be used gives one clear error, and is never unpickled."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import FileDamaged, FileError, FileMissing, PickleRefused, open_lora
from lora_pack.lora_core.files.safetensors_header import read_header

from ..adapter_files import pair, write_adapter, write_header


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "good.safetensors", pair("lora_unet_conv_in", 8, 4))


def test_an_empty_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    with pytest.raises(FileDamaged, match=r"empty\.safetensors: the file is empty"):
        open_lora(path)


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match="not there"):
        open_lora(tmp_path / "gone.safetensors")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        open_lora(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_cut_off_anywhere_is_damaged(good: Path, share: float) -> None:
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileDamaged):
        open_lora(good)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt", "a.bin"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_refused_by_name_or_content_and_never_run(tmp_path: Path, name: str, protocol: int) -> None:
    path, mark = tmp_path / name, tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
    with pytest.raises(PickleRefused, match="not opened"):
        open_lora(path)
    assert not mark.exists()


def test_a_torch_zip_named_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torch.safetensors"
    torch.save({"lora_unet_conv_in.lora_down.weight": torch.zeros(1)}, path)
    with pytest.raises(PickleRefused):
        open_lora(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        {"a": 5},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}},
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {"__metadata__": [1]},
    ],
)
def test_a_header_that_makes_no_sense_is_damaged(tmp_path: Path, header: object) -> None:
    with pytest.raises(FileDamaged):
        open_lora(write_header(tmp_path / "bad.safetensors", header, b"\0" * 4))


def test_a_header_length_beyond_all_reason_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"\0" * 100)
    with pytest.raises(FileDamaged, match="no safetensors file"):
        open_lora(path)


@pytest.mark.parametrize("header_bytes", [640, 896, 1152, 1408, 640 + 65536])
def test_a_header_whose_length_reads_like_a_pickle_is_still_safetensors(tmp_path: Path, header_bytes: int) -> None:
    text = json.dumps({"__metadata__": {"a": "b"}}).encode().ljust(header_bytes)
    assert read_header(write_header(tmp_path / "a.safetensors", text)).metadata == {"a": "b"}


def test_every_file_error_names_the_file_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    with pytest.raises(FileError) as caught:
        open_lora(path)
    assert str(caught.value).startswith("empty.safetensors: ")
    assert "\n" not in str(caught.value)


def test_metadata_that_is_no_text_is_refused_as_safetensors_itself_does(tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", {"__metadata__": {"alpha": 4}})
    with pytest.raises(FileDamaged, match="its metadata 'alpha' is no text"):
        read_header(path)
