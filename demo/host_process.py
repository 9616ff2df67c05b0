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
    sys.path[:0] = [str(host.resolve()), str(DEMO / "host"), str(DEMO / "custom_nodes")]
    import cpu_packages

    cpu_packages.prepare()
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True  # the host's choice for a CPU, sub-quadratic, is slow to train through
