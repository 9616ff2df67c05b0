"""The `lint` command: ruff's rules, ruff's format and pyright's types, all at the pinned versions."""

import argparse

from .environment import ensure_setup
from .layout import VENV_PYTHON
from .programs import stream
from .stages import say, stage

TOOLS = (
    ("ruff check", ("-m", "ruff", "check", ".")),
    ("ruff format --check", ("-m", "ruff", "format", "--check", ".")),
    ("pyright", ("-m", "pyright")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Lint takes no options: one configuration, in pyproject.toml."""


def run(arguments: argparse.Namespace) -> int:
    ensure_setup()
    failed = failed_tools()
    say(f"failed: {', '.join(failed)}" if failed else "all clean")
    return 1 if failed else 0


def failed_tools() -> list[str]:
    """Run every tool, whatever the ones before it found; the names of those that did not pass."""
    failed: list[str] = []
    for title, arguments in TOOLS:
        with stage(title):
            if stream([VENV_PYTHON, *arguments]) != 0:
                failed.append(title)
    return failed
