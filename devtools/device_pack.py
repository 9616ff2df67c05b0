"""The folder .device/ that goes along to a machine without a network: ComfyUI cut to what runs, and missing wheels."""

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .failures import CommandFailed
from .hosts import Host, read_host
from .layout import ROOT, VENV_PYTHON, shown
from .programs import program_environment
from .stages import say, stage

PACK = ROOT / ".device"
LARGEST = 60_000_000  # bytes
# What ComfyUI imports beyond torch, torchvision, transformers, peft and the like, found by importing it.
WHEELS = ("av", "torchsde", "trampoline", "comfy-aimdo", "comfy-kitchen")
UNPINNED = {"trampoline": "0.1.2"}  # comes with torchsde
PURE = ("comfy-kitchen",)  # its other wheels hold kernels of 60 MB, which it does without
MANYLINUX = ("2_39", "2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17")
# Of a ComfyUI, what no import and no test of the nodes needs.
LEFT_OUT = re.compile(
    r"^(\.git|\.ci|\.github|tests|tests-unit|blueprints|comfy_api_nodes|script_examples|input|output|models|web|user"
    r"|custom_nodes|alembic_db|docs|temp)(/|$)"
    r"|^comfy/text_encoders/\w+_tokenizer/|(^|/)__pycache__(/|$)|\.(md|png|jpg|webp|safetensors)$"
)


@dataclass(frozen=True)
class Unpacked:
    """A pack, ready on this machine."""

    packages: Path  # a folder for PYTHONPATH
    hosts: Sequence[Host]  # the newest first


def make_pack(hosts: Sequence[Host], python: str, machine: str) -> None:
    """Make .device/ anew for a machine with that Python, such as "3.12", and processor, such as "x86_64"."""
    shutil.rmtree(PACK, ignore_errors=True)
    (PACK / "wheels").mkdir(parents=True)
    for host in hosts:
        with stage(f"{host} to {shown(PACK)}"):
            _pack_host(host)
    with stage(f"wheels for Python {python} on {machine}"):
        for name in WHEELS:
            _download(name, python, machine)
    size = sum(file.stat().st_size for file in PACK.rglob("*") if file.is_file())
    say(f"{shown(PACK)}: {size / 1e6:.1f} MB")
    if size > LARGEST:
        raise CommandFailed(f"{shown(PACK)} holds {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f} MB")


def _pack_host(host: Host) -> None:
    with tarfile.open(PACK / f"comfyui-{host.version}.tar.xz", "w:xz", preset=3) as archive:
        for file in _files_of(host.path):
            archive.add(file, file.relative_to(host.path).as_posix(), recursive=False)


def _files_of(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not LEFT_OUT.search(file.relative_to(folder).as_posix()):
            yield file


def _download(name: str, python: str, machine: str) -> None:
    target = ["--implementation", "py", "--abi", "none", "--platform", "any"]
    if name not in PURE:
        target = ["--implementation", "cp", "--platform", f"manylinux2014_{machine}"]
        target += [word for age in MANYLINUX for word in ("--platform", f"manylinux_{age}_{machine}")]
    command = [str(VENV_PYTHON), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, *target, "--dest", str(PACK / "wheels"), f"{name}=={_pinned(name)}"]
    done = subprocess.run(command, capture_output=True, text=True, env=program_environment())
    if done.returncode != 0:
        raise CommandFailed(f"pip finds no wheel of {name}: {done.stderr.strip()[-300:]}")


def _pinned(name: str) -> str:
    if name in UNPINNED:
        return UNPINNED[name]
    for file in ("requirements.txt", "requirements-no-deps.txt"):
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        found = re.search(rf"^{re.escape(name)}==([^\s;]+)", text, re.MULTILINE)
        if found:
            return found.group(1)
    raise CommandFailed(f"{name} is pinned nowhere")


def unpack(folder: Path) -> Unpacked:
    """Lay out the pack in a folder, with the Python that runs this; nothing is fetched."""
    packages = folder / "packages"
    with stage(f"unpacking {shown(PACK)}"):
        wheels = sorted(str(wheel) for wheel in (PACK / "wheels").glob("*.whl"))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        done = subprocess.run([*command, "--target", str(packages), *wheels], capture_output=True, text=True)
        if done.returncode != 0:
            raise CommandFailed(f"the wheels can't be installed: {done.stderr.strip()[-300:]}")
        hosts = [_unpack_host(archive, folder) for archive in PACK.glob("comfyui-*.tar.xz")]
    hosts.sort(key=lambda host: [int(part) for part in re.findall(r"\d+", host.version)], reverse=True)
    return Unpacked(packages, hosts)


def _unpack_host(archive: Path, folder: Path) -> Host:
    target = folder / archive.name.removesuffix(".tar.xz")
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    for name in ("custom_nodes", "models", "input", "output"):
        (target / name).mkdir(exist_ok=True)
    host = read_host(target)
    if host is None:
        raise CommandFailed(f"{archive.name} holds no ComfyUI")
    return host
