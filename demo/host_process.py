"""Makes a ComfyUI's modules and the demo's node pack importable in this process, on the CPU."""

import argparse
import os
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent
BUNDLED_HOST = DEMO.parent / ".hosts" / "comfyui-0.3.75"


def add_host_argument(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("COMFYUI_PATH") or BUNDLED_HOST)
    parser.add_argument(
        "--host", type=Path, default=default, help=f"folder with ComfyUI's main.py (default: {default})"
    )


def enter(host: Path, threads: int = 1) -> None:
    """Call it once, before anything of the host is imported.

    One thread is the fastest here where other programs run too: torch's threads wait for each other after every layer.
    """
    if not (host / "main.py").is_file():
        sys.exit(f"{host} holds no ComfyUI (no main.py)")
    import torch

    torch.set_num_threads(threads)
    sys.path[:0] = [str(DEMO), str(DEMO / "custom_nodes")]
    from host.in_process import enter_host

    enter_host(host, quick_attention=True)
