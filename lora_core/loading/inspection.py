"""Accounts for an adapter file from its header alone: against a model's layers, or by its own names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..adapters import find_builder, is_complete, why_incomplete
from ..errors import FileDamaged
from ..files.lora_file import LoraFile, identify, open_lora
from ..files.safetensors_header import DTYPES, Header, TensorEntry, is_shape, read_header
from ..names.families import Family
from ..names.key_dialects import IGNORED
from ..names.key_map import ParsedKey, parse_key
from ..names.key_report import KeyNote, KeyReport
from ..names.name_table import NameTable
from ..names.target_layer import ModelLayout, list_targets
from .file_family import family_of_header
from .loaded_lora import account
from .open_clip import shapes_by_layer
from .packed_weights import whole_shapes
from .refusals import refuse_foreign

NO_MODEL_GIVEN = Family("not given", "")
Shapes = Mapping[str, tuple[int, ...]]


def inspect_file(file: LoraFile, layout: ModelLayout | None = None) -> KeyReport:
    """Account for every key of a file without reading its matrices.

    Args:
        file: from open_lora or open_file_or_key_list.
        layout: the model to hold it against; None to check the names and completeness of the layers alone.

    Raises NotAnAdapter for a file of another kind.
    """
    refuse_foreign(file)
    if layout is None:
        return _by_own_names(file)
    return account(file, family_of_header(file.header), layout, NameTable(layout))


def _by_own_names(file: LoraFile) -> KeyReport:
    ignored: list[KeyNote] = []
    unmatched: list[KeyNote] = []
    layers: dict[str, list[ParsedKey]] = {}
    for key in file.header.entries:
        reason = next((entry.reason for entry in IGNORED if entry.pattern.search(key)), None)
        parsed = parse_key(key)
        if reason is not None:
            ignored.append(KeyNote(key, reason))
        elif parsed is None:
            unmatched.append(KeyNote(key, "no adapter parameter that is known"))
        else:
            layers.setdefault(parsed.layer, []).append(parsed)
    matched: list[str] = []
    ranks: list[int] = []
    algorithms: dict[str, int] = {}
    dialects: dict[str, int] = {}
    for keys in layers.values():
        roles = {key.parameter.role: key.parameter.algorithm for key in keys}
        if not is_complete(roles.keys()):
            reason = why_incomplete(roles)
            unmatched += [KeyNote(key.key, reason) for key in keys]
            continue
        builder = find_builder(roles.keys())
        algorithm = builder.algorithm if builder else "bias"
        matched += [key.key for key in keys]
        downs = [file.header.entries[key.key] for key in keys if key.parameter.role == "down"]
        ranks += [down.shape[0] for down in downs if down.shape]
        algorithms[algorithm] = algorithms.get(algorithm, 0) + 1
        dialects[keys[0].dialect.name] = dialects.get(keys[0].dialect.name, 0) + 1
    return KeyReport(
        file=file.name,
        dialect=max(dialects, key=lambda name: dialects[name], default="unknown"),
        file_family=family_of_header(file.header),
        model_family=NO_MODEL_GIVEN,
        keys=len(file.header.entries),
        matched=matched,
        ignored=ignored,
        unmatched=unmatched,
        algorithms=algorithms,
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alphas=None,
    )


def open_file_or_key_list(path: Path) -> LoraFile:
    """An adapter file, or a key list in JSON ({key: [dtype, shape]}) in its place. Raises FileError."""
    if path.suffix.lower() != ".json":
        return open_lora(path)
    entries, has_shapes = _entries(path)
    return LoraFile(identify(path), Header(entries, {}), None, has_data=False, has_shapes=has_shapes)


def read_layout(path: Path) -> ModelLayout:
    """The layers of a checkpoint (safetensors) or of a key list in JSON. Reads headers only. Raises FileError."""
    entries = _entries(path)[0] if path.suffix.lower() == ".json" else read_header(path).entries
    return list_targets(shapes_by_layer(whole_shapes(entries)))


def _entries(path: Path) -> tuple[dict[str, TensorEntry], bool]:
    """The entries of a key list, and whether it tells every shape."""
    try:
        fields: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileDamaged(path.name, f"the key list can't be read ({error})") from None
    if not isinstance(fields, dict):
        raise FileDamaged(path.name, "the key list is no table of key: [dtype, shape]")
    entries = {key: _entry(path.name, key, value) for key, value in cast("dict[str, Any]", fields).items()}
    return entries, all(value[1] is not None for value in cast("dict[str, Any]", fields).values())


def _entry(name: str, key: str, value: Any) -> TensorEntry:
    try:
        if not isinstance(value, list):
            raise TypeError(value)
        dtype, shape = cast("list[Any]", value)
        sides = tuple(int(side) for side in shape or ())
        if not is_shape(sides):
            raise ValueError(sides)
        return TensorEntry(DTYPES.get(dtype or "F32", torch.float32), sides, 0, 0)
    except (TypeError, ValueError, OverflowError):
        raise FileDamaged(name, f"the key list gives '{key[:80]}' no [dtype, shape]") from None
