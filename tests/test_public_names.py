"""The public names of lora_core and the ids of the nodes are promises; this list changes only with the CHANGELOG."""

import lora_pack.lora_core as core


def test_the_public_names_of_the_core() -> None:
    assert sorted(core.__all__) == [
        "FamilyMismatch", "FileDamaged", "FileError", "FileMissing", "KeyNote", "KeyReport", "LoadedLora",
        "LoraError", "LoraFile", "ModelLayout", "NameTable", "NoLayerReached", "NotAnAdapter", "PickleRefused",
        "StackError", "TargetLayer", "UnmatchedKeys", "list_targets", "load_lora", "open_lora",
    ]  # fmt: skip
    assert all(hasattr(core, name) for name in core.__all__)
