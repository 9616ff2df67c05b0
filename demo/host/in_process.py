"""Makes one ComfyUI importable in this process, on the CPU and, where asked for, in a base directory of its own."""

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from . import cpu_packages

DYNAMIC_VRAM = "LORA_LOOM_DYNAMIC_VRAM"


def enter_host(host: Path, base: Path | None = None, *, quick_attention: bool = False) -> None:
    """After it, `import comfy`, `nodes` or `folder_paths` are this host's. Call once, before anything imports them.

    The GPU is used only where LORA_LOOM_GPU is set, and there the host's dynamic VRAM only where
    LORA_LOOM_DYNAMIC_VRAM is. The host's own warnings at import are its own affair.

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
        is_dynamic = bool(os.environ.get(DYNAMIC_VRAM)) and not args.cpu
        if is_dynamic:
            import comfy_aimdo.control  # pyright: ignore[reportMissingImports]

            comfy_aimdo.control.init()
        import comfy.sd  # pyright: ignore  # noqa: F401
        import comfy_api.latest  # pyright: ignore  # noqa: F401
        import folder_paths  # pyright: ignore
        import nodes  # pyright: ignore  # noqa: F401

        if is_dynamic:
            _start_dynamic_vram()
    if base is not None and Path(folder_paths.base_path).resolve() != base.resolve():
        raise RuntimeError(f"folder_paths was imported before: its base is {folder_paths.base_path}")


def _start_dynamic_vram() -> None:
    """As main.py does on an NVIDIA card: weights are streamed to it layer by layer."""
    import comfy_aimdo.control  # pyright: ignore[reportMissingImports]

    modules: list[Any] = [
        import_module(f"comfy.{name}") for name in ("memory_management", "model_management", "model_patcher")
    ]
    memory, management, patchers = modules
    devices = [device.index for device in management.get_all_torch_devices()]
    try:
        is_ready = comfy_aimdo.control.init_devices((index, 0) for index in devices)
    except TypeError:  # comfy-aimdo before 0.4.10
        is_ready = comfy_aimdo.control.init_devices(devices)
    if not is_ready:
        raise RuntimeError("comfy-aimdo can't stream weights on this machine")
    patchers.CoreModelPatcher = patchers.ModelPatcherDynamic
    memory.aimdo_enabled = True
