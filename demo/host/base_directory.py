"""Lays out a base directory for a ComfyUI: which packs it sees, by link where links work, and which LoRA files.

The LoRA files truly lie in it: those that only link out of the loras folders are not shown, only applied.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

# Left out where a folder has to be copied: nothing a pack needs, and the last ones may hold this very base directory.
NOT_COPIED = (".git", ".venv", ".hosts", ".demo", ".test", ".bench", "__pycache__", ".pytest_cache", ".ruff_cache")


def make_base_directory(base: Path, packs: Mapping[str, Path], loras: Iterable[Path]) -> Path:
    """`packs`: folder name under custom_nodes -> the pack. Replaces what the base directory held."""
    for name in ("input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    _fill(base / "custom_nodes", packs, _link_or_copy)
    _fill(base / "models" / "loras", {lora.name: lora for lora in loras}, _hard_link_or_copy)
    return base


def _fill(folder: Path, contents: Mapping[str, Path], put: Callable[[Path, Path], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        _remove(entry)
    for name, source in contents.items():
        put(source.resolve(), folder / name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source, target_is_directory=True)
    except (OSError, NotImplementedError):  # Windows without the right to make links
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_COPIED))


def _hard_link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
