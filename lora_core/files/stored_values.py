"""Writes nested lists and tables of tensors and plain values to a safetensors file, and reads them back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import FileDamaged, LoraError
from .lora_file import LoraFile, Reader, identify
from .safetensors_header import DTYPES, read_header
from .safetensors_writer import write_safetensors

TREE, CHECKSUM = "tree", "sha256"  # fields of the file's metadata
TENSOR, LIST, TUPLE, TABLE, PLAIN = "tensor", "list", "tuple", "table", "plain"  # kinds of nodes in the tree
STORABLE = frozenset(DTYPES.values())
Plain = str | int | float | bool | None


class NotStorable(LoraError):
    """A value holds something that is neither a plain value, nor a tensor of a dtype that files know."""


def plain_copy(value: Any) -> Any:
    """The value with every tensor copied to the CPU as an ordinary tensor, which autograd can use."""
    with torch.inference_mode(False):
        return _mapped(value)


def byte_size(value: Any) -> int:
    """Bytes of all tensors in a value."""
    match value:
        case Tensor():
            return value.numel() * value.element_size()
        case list() | tuple():
            return sum(byte_size(item) for item in cast("list[Any]", value))
        case dict():
            return sum(byte_size(item) for item in cast("dict[Any, Any]", value).values())
        case _:
            return 0


def write_value(path: Path, value: Any) -> None:
    """Write a value of lists, tuples, tables with names, tensors and plain values; whole or not at all.

    Raises NotStorable, and FileNotWritten as safetensors_writer.write_safetensors does.
    """
    tensors: dict[str, Tensor] = {}
    tree = _tree(value, tensors)
    metadata = {TREE: json.dumps(tree), CHECKSUM: checksum(tensors)}
    write_safetensors(path, tensors, metadata)


def read_value(path: Path) -> Any:
    """The value that write_value wrote.

    Raises FileMissing, or FileDamaged for a file that is cut off, changed, or of another kind.
    """
    file = LoraFile(identify(path), read_header(path), None)
    if TREE not in file.header.metadata:
        raise FileDamaged(path.name, "it is no file of this cache")
    with file.tensors() as reader:
        tensors = {key: _read(reader, key) for key in file.header.entries}
    if file.header.metadata.get(CHECKSUM) != checksum(tensors):
        raise FileDamaged(path.name, "its data are not those that were written")
    try:
        return _value(json.loads(file.header.metadata[TREE]), tensors)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise FileDamaged(path.name, "what it says of its values can't be read") from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names and numbers, whatever the order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bit by bit, also in dtypes that can't be compared."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def fingerprint(value: Any) -> str | None:
    """A text that is equal for equal values; None where something in it can't be compared."""
    tensors: dict[str, Tensor] = {}
    try:
        return f"{json.dumps(_tree(value, tensors))} {checksum(tensors)}"
    except NotStorable:
        return None


def _mapped(value: Any) -> Any:
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True)
        case list():
            return [_mapped(item) for item in cast("list[Any]", value)]
        case tuple() if type(cast(object, value)) is tuple:
            return tuple(_mapped(item) for item in cast("tuple[Any, ...]", value))
        case dict():
            return {key: _mapped(item) for key, item in cast("dict[Any, Any]", value).items()}
        case _:
            return value


def _tree(value: Any, tensors: dict[str, Tensor]) -> list[Any]:
    """[kind, content]; tensors are put into `tensors` and named in their place."""
    match value:
        case Tensor() if type(value) is Tensor and value.dtype in STORABLE and value.layout == torch.strided:
            name = str(len(tensors))
            tensors[name] = value.detach().cpu()
            return [TENSOR, name]
        case list():
            return [LIST, [_tree(item, tensors) for item in cast("list[Any]", value)]]
        case tuple() if type(cast(object, value)) is tuple:
            return [TUPLE, [_tree(item, tensors) for item in cast("tuple[Any, ...]", value)]]
        case dict():
            table = cast("dict[Any, Any]", value)
            if not all(type(key) is str for key in table):
                raise NotStorable("a table's names are no text")
            return [TABLE, {key: _tree(item, tensors) for key, item in table.items()}]
        case None | str() | bool() | int() | float() if type(value) in (type(None), str, bool, int, float):
            return [PLAIN, value]
        case _:
            raise NotStorable(f"{type(value).__name__} can't be written to a file")


def _value(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, content = node
    match kind:
        case "tensor":
            return tensors[content]
        case "list":
            return [_value(item, tensors) for item in content]
        case "tuple":
            return tuple(_value(item, tensors) for item in content)
        case "table":
            return {key: _value(item, tensors) for key, item in content.items()}
        case "plain":
            return content
        case _:
            raise ValueError(kind)


def _read(reader: Reader, key: str) -> Tensor:
    with torch.inference_mode(False):  # what is read is kept for later calls, which may be outside of inference mode
        return reader.tensor(key)
