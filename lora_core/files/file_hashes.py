"""Computes the hashes that sites and programs know a LoRA file by, in one pass, and checks those stored inside it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileMissing
from .safetensors_header import LENGTH_BYTES

BLOCK_BYTES = 1 << 20  # bytes read at a time
LEGACY_START, LEGACY_BYTES = 0x100000, 0x10000  # bytes of the file that kohya's and A1111's first hash looks at
AUTOV2_DIGITS, AUTOV3_DIGITS, LEGACY_DIGITS = 10, 12, 8  # hexadecimal digits
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

# Metadata field -> the computed hash that it should equal. kohya computes the first two on the file as it would be with
# its ss_* fields alone: the data, and so the first, is the same; the second sees other bytes as soon as there are more.
STORED: Mapping[str, str] = {
    "sshs_model_hash": "tensors_sha256",
    "modelspec.hash_sha256": "tensors_sha256",
    "sshs_legacy_hash": "legacy",
}
LEGACY_REMARK = "; it covers bytes at a fixed place, so it is normal that added metadata changes it"


@dataclass(frozen=True, slots=True)
class StoredHash:
    """A hash that a file's metadata gives, held against the computed one."""

    field: str
    stored: str
    computed: str
    agrees: bool
    remark: str  # why it is not to be used; "" where it agrees


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHashes:
    """The hashes of one file, computed from its bytes. Sources: A1111 hashes.py, kohya train_util.py, Civitai."""

    sha256: str  # of the whole file
    tensors_sha256: str  # of all bytes behind the header; kohya's sshs_model_hash
    legacy: str  # first 8 digits of the sha256 of 0x10000 bytes at 0x100000; kohya's sshs_legacy_hash

    @property
    def autov2(self) -> str:
        """Civitai's AutoV2."""
        return self.sha256[:AUTOV2_DIGITS]

    @property
    def autov3(self) -> str:
        """Civitai's AutoV3."""
        return self.tensors_sha256[:AUTOV3_DIGITS]

    def check(self, metadata: Mapping[str, str]) -> Sequence[StoredHash]:
        """Every hash that the metadata stores, and whether it is the file's."""
        computed = {"tensors_sha256": self.tensors_sha256, "legacy": self.legacy}
        return [
            _check(field, metadata[field].strip().lower().removeprefix("0x"), computed[name])
            for field, name in STORED.items()
            if field in metadata
        ]

    def as_json(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The hashes as plain data, with the stored ones."""
        return {
            "sha256": self.sha256,
            "autov2": self.autov2,
            "tensors_sha256": self.tensors_sha256,
            "autov3": self.autov3,
            "legacy": self.legacy,
            "stored": [
                {"field": stored.field, "stored": stored.stored, "agrees": stored.agrees, "remark": stored.remark}
                for stored in self.check(metadata)
            ],
        }

    def lines(self, metadata: Mapping[str, str]) -> list[str]:
        """The hashes for a person, and a line for each stored one that is not the file's."""
        lines = [
            f"sha256: {self.sha256} (AutoV2 {self.autov2})",
            f"sha256 of the tensors: {self.tensors_sha256} (AutoV3 {self.autov3})",
            f"legacy hash: {self.legacy}",
        ]
        wrong = (stored for stored in self.check(metadata) if not stored.agrees)
        return lines + [f"Stored hash {stored.field} is not the file's: {stored.remark}" for stored in wrong]


def hash_file(path: Path) -> FileHashes:
    """Read a safetensors file once, block by block, and compute its hashes. Raises FileMissing."""
    whole, tensors = hashlib.sha256(), hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(LEGACY_START)
            legacy = hashlib.sha256(file.read(LEGACY_BYTES)).hexdigest()[:LEGACY_DIGITS]
            file.seek(0)
            data_start = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
            file.seek(0)
            position = 0
            while block := file.read(BLOCK_BYTES):
                whole.update(block)
                tensors.update(memoryview(block)[max(0, data_start - position) :])
                position += len(block)
    except OSError as error:
        raise FileMissing(path.name, f"the file can't be read ({error.strerror})") from None
    return FileHashes(sha256=whole.hexdigest(), tensors_sha256=tensors.hexdigest(), legacy=legacy)


def _check(field: str, stored: str, computed: str) -> StoredHash:
    if stored == computed:
        return StoredHash(field, stored, computed, agrees=True, remark="")
    if len(stored) >= LEGACY_DIGITS and EMPTY_SHA256.startswith(stored):
        remark = "known junk, the sha256 of no bytes at all, which some trainers write into every file"
    elif stored and not stored.strip("0"):
        remark = "known junk, zeros"
    else:
        remark = f"it says {stored[:64] or 'nothing'}, the file has {computed}"
        remark += LEGACY_REMARK if STORED[field] == "legacy" else "; the tensors were changed after it was written"
    return StoredHash(field, stored, computed, agrees=False, remark=remark)
