"""The folder that goes along to a machine without a network: what of a ComfyUI is in it, and what comes out of it."""

import tarfile
from pathlib import Path

import pytest
from lora_pack.devtools import device_pack
from lora_pack.devtools.failures import CommandFailed
from lora_pack.devtools.hosts import read_host

KEPT = (
    "main.py",
    "comfyui_version.py",
    "nodes.py",
    "comfy/sd.py",
    "comfy/sd1_tokenizer/vocab.json",
    "utils/json_util.py",
)
CUT = (
    "web/index.js", "tests/test_x.py", "models/unet/x.safetensors", "custom_nodes/own/__init__.py",
    "comfy/text_encoders/t5_tokenizer/tokenizer.json", "comfy/__pycache__/sd.pyc", "README.md", "blueprints/x.json",
)  # fmt: skip


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack of one made-up host, without wheels."""
    tree = tmp_path / "tree"
    for name in (*KEPT, *CUT):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text('__version__ = "1.2.3"\n')
    monkeypatch.setattr(device_pack, "PACK", tmp_path / "pack")
    monkeypatch.setattr(device_pack, "WHEELS", ())
    host = read_host(tree)
    assert host is not None
    device_pack.make_pack([host], "3.12", "x86_64")
    return tmp_path / "pack"


def test_a_host_is_cut_to_what_runs_and_comes_out_as_a_host(packed: Path) -> None:
    with tarfile.open(packed / "comfyui-1.2.3.tar.xz") as archive:
        assert sorted(archive.getnames()) == sorted(KEPT)
    host = device_pack._unpack_host(packed / "comfyui-1.2.3.tar.xz", packed)
    assert host.version == "1.2.3" and (host.path / "custom_nodes").is_dir()


def test_a_pack_that_is_too_large_to_travel_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_pack, "LARGEST", 10)
    host = read_host(packed.parent / "tree")
    assert host is not None
    with pytest.raises(CommandFailed, match=r"holds 0 MB, more than"):
        device_pack.make_pack([host], "3.12", "x86_64")


def test_every_wheel_of_the_pack_is_pinned() -> None:
    assert {name: device_pack._pinned(name) for name in device_pack.WHEELS}.keys() == set(device_pack.WHEELS)
    with pytest.raises(CommandFailed, match="pinned nowhere"):
        device_pack._pinned("nothing-of-this-name")
