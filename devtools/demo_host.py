"""The ComfyUI of `demo` and `serve`: which one, with which packs, models and LoRA files in its base directory."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.host.base_directory import make_base_directory
from demo.host.client import GraphFailed, HostError
from demo.host.server import RunningServer, ServerSettings, running_server

from .failures import CommandFailed, bad_input
from .hosts import Host, bundled_host, current_host
from .layout import DEMO, DEMO_WORK, ROOT, VENV_PYTHON, shown
from .stages import say, stage

HOST_CHOICES = ("0.3.75", "current")
DEMO_PACK = DEMO / "custom_nodes" / "lora_loom_demo"
PACKS = {"lora_loom": ROOT, "lora_loom_demo": DEMO_PACK}
# One thread: the model is tiny, and torch's threads wait for each other after every layer where other programs run.
ENVIRONMENT = {"LORA_LOOM_DEMO_DIR": str(DEMO), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def chosen_host(choice: str) -> Host:
    if choice == "0.3.75":
        return bundled_host()
    host = current_host()
    if host is None:
        raise bad_input("no current ComfyUI found: name its folder in COMFYUI_PATH")
    return host


def demo_loras() -> list[Path]:
    return sorted((DEMO / "loras").glob("*.safetensors"))


@contextmanager
def demo_server(name: str, host: Host, *, port: int = 0, with_front_end: bool = False) -> Iterator[RunningServer]:
    """Inside: the host answers, with this pack and the demo's model and LoRA files. Host errors: one line.

    `name` is that of its base directory in .demo/, so that a demo can run while a served page is open.
    """
    if not (DEMO_PACK / "__init__.py").is_file():
        raise CommandFailed(f"{shown(DEMO_PACK)} is missing: the demo's model loader belongs there")
    base = make_base_directory(DEMO_WORK / name, PACKS, demo_loras())
    settings = ServerSettings(
        host=host.path,
        python=VENV_PYTHON,
        base=base,
        log=DEMO_WORK / f"{name}.log",
        port=port,
        with_front_end=with_front_end,
        environment=ENVIRONMENT,
    )
    try:
        with ExitStack() as running:
            with stage(f"start {host}"):
                server = running.enter_context(running_server(settings, lambda text: say(f"   {text}")))
            yield server
    except GraphFailed as error:
        raise CommandFailed(f"{error} (log: {shown(settings.log)})") from None
    except HostError as error:
        raise CommandFailed(str(error)) from None
