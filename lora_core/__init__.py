"""LoRA Loom's core: adapter files, key maps and adapter maths for any torch model, without a host."""

from .errors import (
    FamilyMismatch,
    FileDamaged,
    FileError,
    FileMissing,
    LoraError,
    NoLayerReached,
    NotAnAdapter,
    PickleRefused,
    StackError,
    UnmatchedKeys,
)
from .files.lora_file import LoraFile, open_lora
from .loading.loaded_lora import LoadedLora, load_lora
from .names.key_report import KeyNote, KeyReport
from .names.name_table import NameTable
from .names.target_layer import ModelLayout, TargetLayer, list_targets

__all__ = [
    "FamilyMismatch",
    "FileDamaged",
    "FileError",
    "FileMissing",
    "KeyNote",
    "KeyReport",
    "LoadedLora",
    "LoraError",
    "LoraFile",
    "ModelLayout",
    "NameTable",
    "NoLayerReached",
    "NotAnAdapter",
    "PickleRefused",
    "StackError",
    "TargetLayer",
    "UnmatchedKeys",
    "list_targets",
    "load_lora",
    "open_lora",
]
