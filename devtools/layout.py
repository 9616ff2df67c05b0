"""Where things lie in this repository, and which Python runs them."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
HOSTS = ROOT / ".hosts"
DEMO = ROOT / "demo"
DEMO_WORK = ROOT / ".demo"
TEST_WORK = ROOT / ".test"
BENCH_WORK = ROOT / ".bench"

_SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
VENV_PYTHON = _SCRIPTS / ("python.exe" if os.name == "nt" else "python")


def shown(path: Path) -> str:
    """The path as a person at the repository root would type it."""
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)
