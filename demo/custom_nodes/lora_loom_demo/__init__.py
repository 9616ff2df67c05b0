"""Hands the host the demo's one node, which offers the tiny shapes model in a graph."""

from .demo_node import LoraLoomDemoExtension


async def comfy_entrypoint() -> LoraLoomDemoExtension:
    """Called by the host once, at start."""
    return LoraLoomDemoExtension()


__all__ = ["comfy_entrypoint"]
