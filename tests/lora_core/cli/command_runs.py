"""Runs the command line inside this process, which spares a start of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from lora_pack.lora_core.__main__ import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run_command(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Done:
    """The end of `python -m lora_core ...` with these arguments."""
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    printed = capsys.readouterr()
    return Done(status, printed.out, printed.err)
