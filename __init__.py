"""LoRA Loom for ComfyUI: hands the host the pack's nodes and its web folder."""

from .nodes import LoraLoomExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> LoraLoomExtension:
    """Called by the host once, at start."""
    return LoraLoomExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
