"""Lets tests import the pack as `lora_pack`, and gives host tests a ComfyUI: in this process, or as a server.

COMFYUI_PATH names the ComfyUI; without it, it is the one that `dev.py setup` gets. Host tests without one fail.
"""

import importlib.machinery
import os
import shutil
import signal
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST_FOLDERS = ("nodes", "oracle", "e2e")  # their modules may import the host at the top

# The root is never on the path: its folder nodes/ would hide ComfyUI's module of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

_pack = types.ModuleType("lora_pack", "The repository's root, importable without running the pack's __init__.")
_pack.__path__ = [str(ROOT)]
_pack.__spec__ = importlib.machinery.ModuleSpec("lora_pack", None, is_package=True)
sys.modules["lora_pack"] = _pack

from lora_pack.demo.host.base_directory import make_base_directory  # noqa: E402  needs the package made above
from lora_pack.demo.host.in_process import enter_host  # noqa: E402
from lora_pack.demo.host.server import RunningServer, ServerSettings, running_server  # noqa: E402
from lora_pack.devtools.hosts import BUNDLED, Host, read_host  # noqa: E402

DEMO = ROOT / "demo"
DEMO_PACK = DEMO / "custom_nodes" / "lora_loom_demo"
LOG_LINES_SHOWN = 60

_entered: list[Host] = []
_base_directories: list[str] = []


def find_host() -> Host | None:
    return read_host(Path(os.environ.get("COMFYUI_PATH") or BUNDLED).expanduser())


class NoHost(pytest.File):
    """Stands for a host test module where there is no ComfyUI: one failing test that says so."""

    def collect(self) -> Iterator[pytest.Item]:
        yield NoHostItem.from_parent(self, name="needs_a_ComfyUI")


class NoHostItem(pytest.Item):
    def runtest(self) -> None:
        pytest.fail(
            f"no ComfyUI at {os.environ.get('COMFYUI_PATH') or BUNDLED}: run `python dev.py setup` or set COMFYUI_PATH",
            pytrace=False,
        )


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Enter the host before the first module that may import it is imported."""
    folder = module_path.relative_to(ROOT / "tests").parts[0] if module_path.is_relative_to(ROOT / "tests") else ""
    if folder not in HOST_FOLDERS or _entered:
        return None
    found = find_host()
    if found is None:
        return NoHost.from_parent(parent, path=module_path)
    _base_directories.append(tempfile.mkdtemp(prefix="lora-loom-host-"))
    enter_host(found.path, Path(_base_directories[0]))
    _compute_in_whole_float32()
    _entered.append(found)
    return None


def _compute_in_whole_float32() -> None:
    """On a card, convolutions round to 10 bits (TF32) and hosts merge in float16; comparisons are made without."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    import comfy.model_management

    comfy.model_management.lora_compute_dtype = lambda device: torch.float32


def pytest_configure() -> None:
    """Being told to end is an interrupt, so that fixtures stop the servers they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure() -> None:
    for folder in _base_directories:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test that used a server shows the end of the server's log."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, RunningServer):
                end = "\n".join(value.log_text().splitlines()[-LOG_LINES_SHOWN:])
                report.sections.append((f"log of {name}, last {LOG_LINES_SHOWN} lines", end))
    return report


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI of this run: `.path` and `.version`."""
    found = find_host()
    assert found is not None  # collection has failed the test otherwise
    return found


@pytest.fixture
def loras_dir(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the in-process host's only "loras" folder for this test."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(folder)], folder_paths.supported_pt_extensions)
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


def server_settings(host: Host, base: Path, packs: dict[str, Path]) -> ServerSettings:
    """A server on this host with these packs, the demo's LoRA files and its model."""
    return ServerSettings(
        host=host.path,
        python=Path(sys.executable),
        base=make_base_directory(base, packs, sorted((DEMO / "loras").glob("*.safetensors"))),
        log=base / "server.log",
        environment={"LORA_LOOM_DEMO_DIR": str(DEMO), "OMP_NUM_THREADS": "1"},  # one: see devtools/demo_host.py
    )


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """This host as a child process with this pack and the demo's pack in it: `.client`, `.settings`, `.log_text()`."""
    packs = {"lora_loom": ROOT, "lora_loom_demo": DEMO_PACK}
    with running_server(server_settings(host, tmp_path_factory.mktemp("server"), packs)) as running:
        yield running


@pytest.fixture(scope="session")
def oddly_named_server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """As `server`, with this pack alone and under the folder name that a copy made by hand gets."""
    packs = {"My LoRA-Loom (copy)": ROOT}
    with running_server(server_settings(host, tmp_path_factory.mktemp("odd server"), packs)) as running:
        yield running
