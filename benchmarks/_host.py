"""Starts a ComfyUI inside the benchmark's own process, and this pack beside it under the name `lora_pack`."""

import os
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def find_host() -> Path:
    """The folder of the host named by COMFYUI_PATH; makes `import lora_pack...` work, and starts nothing."""
    host = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".hosts" / "comfyui-0.3.75").expanduser().resolve()
    if not (host / "main.py").is_file():
        raise SystemExit(f"no ComfyUI at {host}; run `python dev.py setup` or set COMFYUI_PATH")
    # The repository's folder called nodes would hide the host's own module of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    package = types.ModuleType("lora_pack")
    package.__path__ = [str(ROOT)]
    sys.modules["lora_pack"] = package
    return host


def start_host() -> Path:
    """Make `import comfy` and `import lora_pack.nodes...` work; the folder of the host."""
    host = find_host()
    from lora_pack.demo.host.in_process import enter_host

    enter_host(host, Path(tempfile.mkdtemp(prefix="lora-loom-bench-")))
    return host
