"""Runs other programs: streamed to the console, or into a log with each line shown to a callback."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .failures import CommandFailed
from .layout import ROOT, VENV, shown

OnLine = Callable[[str], object]


def nothing(_line: str) -> None:
    """The callback that shows nothing."""


def program_environment(**changes: str) -> dict[str, str]:
    """This process's environment for a program in .venv, without what would mix in other packages."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    kept["PATH"] = str(VENV / ("Scripts" if os.name == "nt" else "bin")) + os.pathsep + kept.get("PATH", "")
    return {**kept, "VIRTUAL_ENV": str(VENV), "PYTHONUNBUFFERED": "1", **changes}


def stream(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """Run from the repository root with this console's output; returns the exit code."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=env or program_environment())
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def run_logged(command: Sequence[str | Path], log: Path, on_line: OnLine = nothing) -> None:
    """Run with the output going to `log`, each line handed to `on_line`. CommandFailed on a non-zero exit."""
    log.parent.mkdir(parents=True, exist_ok=True)
    last_lines: list[str] = []
    with log.open("a", encoding="utf-8") as sink:
        process = _piped(command)
        try:
            _follow(process, sink.write, on_line, last_lines)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.wait() != 0:
        raise CommandFailed(f"{_reason(last_lines)} (whole log: {shown(log)})")


def _piped(command: Sequence[str | Path]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=program_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _follow(process: "subprocess.Popen[str]", write: OnLine, on_line: OnLine, last_lines: list[str]) -> None:
    for line in process.stdout or ():
        write(line)
        last_lines[:] = [*last_lines[-19:], line.strip()]
        on_line(line.strip())


def _reason(last_lines: Sequence[str]) -> str:
    errors = [line for line in last_lines if line.upper().startswith("ERROR")]
    return (errors or [line for line in last_lines if line] or ["no output"])[-1][:300]
