"""Says before any work where an adapter file can not, or should not, be written."""

from pathlib import Path

from ...errors import FileNotWritten
from ...files.lora_file import PEFT_CONFIG_NAME


def check_out(path: Path, *, replace: bool, configured: bool = False) -> None:
    """Raise FileNotWritten where a file can't or should not be written, before any work is done."""
    if not path.parent.is_dir():
        raise FileNotWritten(path.name, f"its folder {path.parent} is not there")
    if path.is_dir():
        raise FileNotWritten(path.name, "it is a folder")
    beside = [path.parent / PEFT_CONFIG_NAME] if configured else []
    there = [one.name for one in (path, *beside) if one.exists()]
    if there and not replace:
        raise FileNotWritten(path.name, f"{' and '.join(there)} is there already", "Give --force to replace it.")
