"""A header is taken exactly where safetensors itself takes it, and a file as it lies on disk is no trap."""

import io
import itertools
import os
import random
from pathlib import Path
from typing import Any

import pytest
from lora_pack.lora_core.errors import FileDamaged
from lora_pack.lora_core.files.light_metadata import BYTES_AT_MOST, NOTHING, read_light
from lora_pack.lora_core.files.lora_file import open_lora
from lora_pack.lora_core.files.safetensors_header import read_header
from lora_pack.lora_core.files.sidecar import read_sidecar, sidecar_path, write_sidecar
from safetensors import SafetensorError, safe_open

from ..adapter_files import write_header

F32 = 4  # bytes


def tensor(start: int, stop: int, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(stop - start) // F32] if shape is None else shape, "data_offsets": [start, stop]}


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "one behind the other": ({"a": tensor(0, 8), "b": tensor(8, 16)}, 16),
    "in another order": ({"b": tensor(8, 16), "a": tensor(0, 8)}, 16),
    "an empty one between": ({"a": tensor(0, 8), "e": tensor(8, 8, [0]), "b": tensor(8, 16)}, 16),
    "no tensor at all": ({}, 0),
    "the same bytes twice": ({"a": tensor(0, 8), "b": tensor(0, 8)}, 8),
    "overlap": ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12),
    "a hole": ({"a": tensor(0, 8), "b": tensor(12, 20)}, 20),
    "a hole at the start": ({"a": tensor(4, 12)}, 12),
    "a tail": ({"a": tensor(0, 8)}, 12),
    "cut off": ({"a": tensor(0, 8)}, 4),
    "backwards": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, 8),
    "too small for its shape": ({"a": tensor(0, 8, [3])}, 8),
    "a negative side": ({"a": tensor(0, 8, [-2])}, 8),
    "a side that is a text": ({"a": tensor(0, 8, ["2"])}, 8),
    "a side that is a fraction": ({"a": tensor(0, 8, [2.0])}, 8),
    "a side that is true": ({"a": tensor(0, 4, [True])}, 4),
    "offsets that are texts": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, 8),
    "an unknown dtype": ({"a": tensor(0, 8, dtype="F33")}, 8),
    "metadata that are numbers": ({"__metadata__": {"a": 1}}, 0),
    "nested metadata": ({"__metadata__": {"a": {"b": "c"}}}, 0),
}  # fmt: skip


def _is_taken_by_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


def _is_taken(path: Path) -> bool:
    try:
        read_header(path)
    except FileDamaged as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_header_is_taken_where_safetensors_takes_it(name: str, tmp_path: Path) -> None:
    header, size = CASES[name]
    path = write_header(tmp_path / "a.safetensors", header, bytes(size))
    assert _is_taken(path) == _is_taken_by_safetensors(path)


def test_headers_at_random_are_taken_where_safetensors_takes_them(tmp_path: Path) -> None:
    rng = random.Random(4)
    taken = 0
    for number in range(400):
        ends = [0]
        for _ in range(rng.randint(1, 4)):
            ends.append(ends[-1] + F32 * rng.randint(0, 3))
        header = {f"t{i}": tensor(a, b) for i, (a, b) in enumerate(itertools.pairwise(ends))}
        size = ends[-1]
        if rng.random() < 0.6:
            victim = rng.choice(list(header.values()))
            victim["data_offsets"][rng.randint(0, 1)] += rng.choice((-4, 4, 8))
        if rng.random() < 0.2:
            size += rng.choice((-4, 4))
        path = write_header(tmp_path / f"{number}.safetensors", header, bytes(max(size, 0)))
        ours, theirs = _is_taken(path), _is_taken_by_safetensors(path)
        assert ours == theirs, header
        taken += ours
    assert 50 < taken < 350


def test_a_sparse_file_whose_tensors_share_their_bytes_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    header = {f"lora_unet_{n}.lora_down.weight": tensor(0, 4_000_000) for n in range(100)}
    with pytest.raises(FileDamaged, match="shares bytes with another"):
        open_lora(write_header(tmp_path / "a.safetensors", header, bytes(4_000_000)))


def test_a_list_reads_no_more_than_its_share_of_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_header(
        tmp_path / "a.safetensors", {"__metadata__": {"a": "x" * 5_000_000, "modelspec.title": "t"}}, b""
    )
    read: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            found = super().read(size)
            read.append(len(found))
            return found

    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Counted(self))
    assert read_light(path) == NOTHING
    assert 0 < sum(read) <= BYTES_AT_MOST


def test_a_header_that_is_only_shown_is_read_up_to_its_own_limit(tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", {"__metadata__": {"a": "x" * 10_000}}, b"")
    assert open_lora(path, header_at_most=20_000).header.metadata["a"].startswith("xxx")
    with pytest.raises(FileDamaged, match="of which at most 5000 are read here"):
        open_lora(path, header_at_most=5_000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_beside_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = write_header(tmp_path / "adapter_model.safetensors", {}, b"")
    os.mkfifo(sidecar_path(path))
    with pytest.raises(FileDamaged, match="no regular file"):
        read_sidecar(path)
    os.mkfifo(tmp_path / "adapter_config.json")
    assert open_lora(path).peft_config is None


@pytest.mark.parametrize("name", ["adapter_model.metadata.json", "adapter_config.json"])
def test_a_link_out_of_the_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.json").write_text('{"notes": "secret", "lora_alpha": 3}', encoding="utf-8")
    path = write_header(inside / "adapter_model.safetensors", {}, b"")
    (inside / name).symlink_to(outside / "secret.json")
    read = read_sidecar if name.endswith("metadata.json") else open_lora
    with pytest.raises(FileDamaged, match="leaves the folder"):
        read(path)


def test_texts_beside_a_file_have_a_limit(tmp_path: Path) -> None:
    path = write_header(tmp_path / "adapter_model.safetensors", {}, b"")
    (tmp_path / "adapter_config.json").write_text("[" + " " * 4_000_001, encoding="utf-8")
    with pytest.raises(FileDamaged, match="larger than 4000000 bytes"):
        open_lora(path)


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_a_sidecar_that_is_written_again_keeps_its_mode(tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", {}, b"")
    write_sidecar(path, "one", [])
    sidecar_path(path).chmod(0o640)
    write_sidecar(path, "two", [])
    assert sidecar_path(path).stat().st_mode & 0o777 == 0o640
