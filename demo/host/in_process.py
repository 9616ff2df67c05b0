"""Makes one ComfyUI importable in this process, on the CPU and, where asked for, in a base directory of its own."""

import os
import sys
import warnings
from pathlib import Path

from . import cpu_packages


def enter_host(host: Path, base: Path | None = None, *, quick_attention: bool = False) -> None:
    """After it, `import comfy`, `nodes` or `folder_paths` are this host's. Call once, before anything imports them.

    The GPU is used only where LORA_LOOM_GPU is set. The host's own warnings at import are its own affair.

    Args:
        host: its folder.
        base: its base directory; None for its own folder.
        quick_attention: torch's own, since the host's choice for a CPU, sub-quadratic, is slow to train through.
    """
    sys.path.insert(0, str(host.resolve()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpu_packages.prepare()
        from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

        args.cpu = not os.environ.get("LORA_LOOM_GPU")
        args.use_pytorch_cross_attention = quick_attention or args.use_pytorch_cross_attention
        if base is not None:
            args.base_directory = str(base)
        import comfy.sd  # pyright: ignore  # noqa: F401
        import comfy_api.latest  # pyright: ignore  # noqa: F401
        import folder_paths  # pyright: ignore
        import nodes  # pyright: ignore  # noqa: F401
    if base is not None and Path(folder_paths.base_path).resolve() != base.resolve():
        raise RuntimeError(f"folder_paths was imported before: its base is {folder_paths.base_path}")
