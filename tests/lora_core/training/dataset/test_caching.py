"""What was encoded is kept by its content; files of the cache can break or be refused without stopping a run."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lora_pack.lora_core.errors import FileDamaged, FileMissing
from lora_pack.lora_core.files.stored_values import NotStorable, byte_size, plain_copy, read_value, write_value
from lora_pack.lora_core.training.dataset.caching import EncodedCache, MemoryCache, content_key

KEY = content_key("latent", "a picture", "a VAE")
CONDITIONING = [
    [
        torch.arange(12, dtype=torch.bfloat16).reshape(1, 3, 4),
        {
            "pooled_output": torch.linspace(0, 1, 5),
            "attention_mask": torch.ones(1, 3, dtype=torch.bool),
            "guidance": 3.5,
            "nothing": None,
            "words": ("a", 1, True),
            "empty": torch.empty(0, 4),
        },
    ]
]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


class _Made:
    """Counts how often a value had to be made."""

    def __init__(self, value: Any) -> None:
        self.value, self.times = value, 0

    def __call__(self) -> Any:
        self.times += 1
        return self.value


def test_keys_differ_wherever_any_part_differs() -> None:
    keys = {content_key(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("a\0b",), ())}
    assert len(keys) == 6
    assert content_key("a", "\ud800") == content_key("a", "\ud800")


def test_memory_lets_the_values_go_that_were_used_longest_ago() -> None:
    cache = MemoryCache(limit=3 * 400)
    for name in "abc":
        cache.put(name, torch.zeros(100))
    cache.get("a")
    cache.put("d", torch.zeros(100))
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    cache.put("large", torch.zeros(301))
    assert cache.get("large") is None and len(cache) == 3 and cache.bytes == 1200


def test_a_value_is_made_once_and_then_found() -> None:
    memory, make = MemoryCache(10**6), _Made(CONDITIONING)
    first = EncodedCache(memory)
    assert first.get(KEY, make) is CONDITIONING and (first.made, first.found) == (1, 0)
    second = EncodedCache(memory)
    assert second.get(KEY, make) is CONDITIONING and (second.made, second.found) == (0, 1)
    assert make.times == 1


def test_without_a_key_a_value_is_made_every_time() -> None:
    memory, make = MemoryCache(10**6), _Made(torch.zeros(1))
    for _ in range(3):
        EncodedCache(memory).get(None, make)
    assert make.times == 3 and len(memory) == 0


def test_a_value_written_to_disk_is_found_after_a_restart(tmp_path: Path) -> None:
    make = _Made(CONDITIONING)
    EncodedCache(MemoryCache(10**6), tmp_path / "new" / "cache").get(KEY, make)
    again = EncodedCache(MemoryCache(10**6), tmp_path / "new" / "cache").get(KEY, make)
    assert make.times == 1
    assert _same(again, CONDITIONING)
    assert not list(tmp_path.rglob("*.part"))


def _cut(content: bytes) -> bytes:
    return content[:-3]


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _empty(_: bytes) -> bytes:
    return b""


def _other(_: bytes) -> bytes:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _other])
def test_a_damaged_file_is_made_anew_and_told(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    make = _Made(CONDITIONING)
    EncodedCache(MemoryCache(10**6), tmp_path).get(KEY, make)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(FileDamaged):
        read_value(path)
    cache = EncodedCache(MemoryCache(10**6), tmp_path)
    assert _same(cache.get(KEY, make), CONDITIONING) and make.times == 2
    assert list(cache.notes()) == ["1 damaged files of the cache were made anew"]
    assert path.read_bytes() == whole


def test_a_full_disk_costs_the_files_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real_open = Path.open

    def full(path: Path, mode: str = "r", *rest: Any) -> Any:
        if "w" in mode:
            opened.append(path)
            real_open(path, mode, *rest).close()
            raise OSError(28, "No space left on device")
        return real_open(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    cache = EncodedCache(MemoryCache(10**6), tmp_path / "cache")
    keys = [content_key(str(number)) for number in range(3)]
    values = [cache.get(key, _Made(torch.full((2,), float(number)))) for number, key in enumerate(keys)]
    assert [float(value[0]) for value in values] == [0, 1, 2]
    assert len(opened) == 1  # it does not go on trying
    assert "No space left on device" in cache.notes()[0]
    assert not list((tmp_path / "cache").iterdir())
    assert cache.get(keys[1], _Made(None)) is values[1]  # memory has it all the same


def test_a_folder_that_can_not_be_made_costs_the_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    cache = EncodedCache(MemoryCache(10**6), tmp_path / "taken" / "cache")
    assert cache.get(KEY, _Made(CONDITIONING)) is CONDITIONING
    assert "can't be made" in cache.notes()[0]


@pytest.mark.parametrize(
    "value",
    [[object()], {1: "number as name"}, torch.zeros(2, dtype=torch.complex64), [torch.nn.Parameter(torch.zeros(1))]],
    ids=["object", "name", "dtype", "class"],
)
def test_what_a_file_can_not_hold_stays_in_memory(tmp_path: Path, value: Any) -> None:
    with pytest.raises(NotStorable):
        write_value(tmp_path / "a.safetensors", value)
    cache, make = EncodedCache(MemoryCache(10**6), tmp_path), _Made(value)
    assert cache.get(KEY, make) is value and cache.get(KEY, make) is value
    assert make.times == 1
    assert "not everything is kept on disk" in cache.notes()[0]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"))
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]),
)
VALUES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=VALUES)
def test_whatever_is_written_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("values") / "a.safetensors"
    write_value(path, value)
    with torch.inference_mode():
        read = read_value(path)
    flat = _bits(value), _bits(read)
    assert _same(*flat)


def _bits(value: Any) -> Any:
    """float8 can't be compared."""
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).view(torch.uint8) if value.dtype == torch.float8_e4m3fn else value
    if isinstance(value, list | tuple):
        return type(value)(map(_bits, value))
    return {key: _bits(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_a_file_that_is_not_there_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        read_value(tmp_path / "gone.safetensors")


def test_copies_are_ordinary_tensors_whatever_mode_the_values_were_made_in(tmp_path: Path) -> None:
    with torch.inference_mode():
        made = [[torch.ones(3), {"pooled_output": torch.ones(2), "words": ("a",)}]]
        copy = plain_copy(made)
        write_value(tmp_path / "a.safetensors", copy)
        read = read_value(tmp_path / "a.safetensors")
    for value in (copy, read):
        for tensor in (value[0][0], value[0][1]["pooled_output"]):
            assert not tensor.is_inference()
            (tensor * torch.ones(1, requires_grad=True)).sum().backward()
    assert byte_size(copy) == 20
