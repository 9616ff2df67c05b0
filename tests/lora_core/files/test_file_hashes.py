"""Hashes equal those that sites and trainers compute, and stored ones are checked, never trusted."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core.errors import FileMissing
from lora_pack.lora_core.files.file_hashes import EMPTY_SHA256, hash_file
from safetensors.torch import save, save_file

TENSORS = {"a": torch.arange(400_000, dtype=torch.float32), "b": torch.ones(3)}  # 1.6 MB: beyond 0x100000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"ss_output_name": "a", "modelspec.title": "b"})
    return tmp_path / "a.safetensors"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_hashes_equal_those_of_their_own_rules(path: Path) -> None:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    data_bytes = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    hashes = hash_file(path)
    assert hashes.sha256 == _sha256(content)
    assert hashes.tensors_sha256 == _sha256(content[-data_bytes:])
    assert hashes.legacy == _sha256(content[0x100000 : 0x100000 + 0x10000])[:8]
    assert (hashes.autov2, hashes.autov3) == (_sha256(content)[:10], _sha256(content[-data_bytes:])[:12])


def test_the_hash_that_kohya_stores_is_found_in_the_file_that_it_writes(path: Path) -> None:
    # sd-scripts hashes the file as it would be with its ss_* fields alone, behind the header
    alone = save(TENSORS, metadata={"ss_output_name": "a"})
    stored = _sha256(alone[8 + int.from_bytes(alone[:8], "little") :])
    (check,) = hash_file(path).check({"sshs_model_hash": stored})
    assert check.agrees


def test_a_file_smaller_than_the_place_of_the_legacy_hash(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert hash_file(tmp_path / "a.safetensors").legacy == EMPTY_SHA256[:8]


@pytest.mark.parametrize(
    ("field", "stored", "remark"),
    [
        ("sshs_model_hash", EMPTY_SHA256, "known junk, the sha256 of no bytes"),
        ("sshs_legacy_hash", EMPTY_SHA256[:8], "known junk, the sha256 of no bytes"),
        ("modelspec.hash_sha256", "0x" + "0" * 64, "known junk, zeros"),
        ("modelspec.hash_sha256", "0x" + "ab" * 32, "it says abab"),
        ("sshs_legacy_hash", "038eabdb", "it is normal"),
        ("sshs_model_hash", "", "it says nothing"),
    ],
)
def test_a_stored_hash_that_is_not_the_files_is_told_with_the_reason(
    path: Path, field: str, stored: str, remark: str
) -> None:
    (check,) = hash_file(path).check({field: stored, "modelspec.title": "b"})
    assert not check.agrees
    assert remark in check.remark
    assert hash_file(path).lines({field: stored})[-1].startswith(f"Stored hash {field} is not the file's")


def test_a_hash_stored_in_capitals_with_0x_agrees(path: Path) -> None:
    hashes = hash_file(path)
    (check,) = hashes.check({"modelspec.hash_sha256": "0x" + hashes.tensors_sha256.upper()})
    assert check.agrees
    assert len(hashes.lines({"modelspec.hash_sha256": check.stored})) == 3


def test_a_file_that_went_away_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        hash_file(tmp_path / "gone.safetensors")
