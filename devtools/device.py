"""The `device` command: runs `benchmarks.device` on the card at hand, here or on a machine without a network."""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from . import device_pack
from .environment import ensure_setup
from .failures import bad_input
from .hosts import BUNDLED, bundled_host, current_host
from .layout import BENCH_WORK, VENV_PYTHON, shown
from .programs import program_environment, stream
from .stages import say

MINUTES = 9.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=BENCH_WORK / "device", help="folder for what is found")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"after which it ends ({MINUTES:g})")
    parser.add_argument("--only", nargs="*", metavar="PART", help="run these parts (see benchmarks/device/parts.py)")
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU with tiny sizes")
    parser.add_argument("--pack", action="store_true", help="only make .device/, which goes along to a bare machine")
    parser.add_argument("--python", default="3.12", metavar="X.Y", help="of that machine (3.12)")
    parser.add_argument("--machine", default="x86_64", help="its processor (x86_64)")


def run(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.minutes < 24 * 60:
        raise bad_input(f"--minutes {arguments.minutes}: a number of minutes up to a day was expected")
    if arguments.pack:
        ensure_setup()
        current = current_host()
        hosts = [bundled_host(), *([current] if current else [])]
        device_pack.make_pack(hosts, arguments.python, arguments.machine)
        return 0
    if device_pack.PACK.is_dir() and importlib.util.find_spec("torch") and not arguments.rehearse:
        return _run_packed(arguments)
    ensure_setup()
    current = current_host()
    env = program_environment(COMFYUI_PATH=str(current.path if current else BUNDLED))
    pinned = ["--pinned", str(BUNDLED)] if current else []
    return _stream([str(VENV_PYTHON), *_words(arguments), *pinned], env, arguments.out)


def _run_packed(arguments: argparse.Namespace) -> int:
    """With this very Python, which has torch, and what the pack brings."""
    with tempfile.TemporaryDirectory(prefix="lora-loom-device-") as folder:
        ready = device_pack.unpack(Path(folder))
        newest, *older = ready.hosts
        paths = [str(ready.packages), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        env["COMFYUI_PATH"] = str(newest.path)
        pinned = ["--pinned", str(older[-1].path)] if older else []
        return _stream([sys.executable, *_words(arguments), *pinned], env, arguments.out)


def _words(arguments: argparse.Namespace) -> list[str]:
    words = ["-m", "benchmarks.device", "--out", str(arguments.out.resolve()), "--minutes", str(arguments.minutes)]
    words += ["--rehearse"] if arguments.rehearse else []
    return words + (["--only", *arguments.only] if arguments.only else [])


def _stream(command: list[str], env: dict[str, str], out: Path) -> int:
    code = stream(command, env)
    say(f"table: {shown(out.resolve() / 'device.md')}")
    return code
