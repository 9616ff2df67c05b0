"""The `bench` command: runs `python -m benchmarks.NAME --json` for all or the named benchmarks and shows the ratios."""

import argparse
import json
import os
from pathlib import Path

from .environment import ensure_setup
from .failures import CommandFailed, bad_input
from .hosts import BUNDLED
from .layout import BENCH_WORK, ROOT, VENV_PYTHON, shown
from .programs import program_environment, stream
from .stages import say, stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="a module of benchmarks/ (default: all)")
    parser.add_argument("--out", type=Path, default=BENCH_WORK, help="folder for NAME.json (default: .bench)")
    parser.add_argument("--list", action="store_true", help="only list the benchmarks")


def run(arguments: argparse.Namespace) -> int:
    known = _benchmarks()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        raise bad_input(f"no benchmark called {unknown[0]}; there are: {', '.join(known) or 'none'}")
    if arguments.list:
        say("\n".join(known))
        return 0
    if not known:
        raise CommandFailed("benchmarks/ holds no benchmark")
    ensure_setup()
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in arguments.names or known if not _run_one(name, arguments.out.resolve() / f"{name}.json")]
    if failed:
        raise CommandFailed(f"failed: {', '.join(failed)}")
    return 0


def _benchmarks() -> list[str]:
    """Modules that run; one whose name begins with _ is a part of others."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    return [file.stem for file in files if not file.stem.startswith("_") and "__main__" in file.read_text("utf-8")]


def _run_one(name: str, out: Path) -> bool:
    env = program_environment(COMFYUI_PATH=os.environ.get("COMFYUI_PATH") or str(BUNDLED))
    with stage(f"benchmark {name}"):
        if stream([VENV_PYTHON, "-m", f"benchmarks.{name}", "--json", out], env) != 0:
            return False
    for row in json.loads(out.read_text(encoding="utf-8")):
        ours, peer, ratio = (_number(row.get(key)) for key in ("ours", "peer", "ratio"))
        say(f"   {row['case']}: {ours} {row['unit']}, {row['peer_name']} {peer}, x{ratio}")
    say(f"   rows: {shown(out)}")
    return True


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
