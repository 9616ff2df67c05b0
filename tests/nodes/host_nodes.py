"""The nodes of the host that take a model, listed by their schemas so that a new one is tried too."""

import asyncio
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import nodes

MODEL, CLIP = "MODEL", "CLIP"
PRIMITIVE = ("INT", "FLOAT", "BOOLEAN", "STRING")
NOT_RUN = {  # what can't be compared in one process without more
    "Needs files or a network": {"LoraSave", "ModelSave", "CLIPSave", "CheckpointSave"},
    "Compiles for a minute": {"TorchCompileModel"},
}


@cache
def _all_nodes() -> Mapping[str, Any]:
    found = nodes.init_builtin_extra_nodes()
    if inspect.isawaitable(found):
        asyncio.run(_wait(found))
    own = {name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("LoraLoom")}
    return {name: node for name, node in sorted(nodes.NODE_CLASS_MAPPINGS.items()) if name not in own}


async def _wait(call: Any) -> None:
    await call


def _inputs(node: Any) -> dict[str, Any] | None:
    """Required input -> its type, or its default; None where one has neither."""
    found: dict[str, Any] = {}
    for name, (kind, *options) in node.INPUT_TYPES().get("required", {}).items():
        extra = options[0] if options else {}
        if kind in (MODEL, CLIP):
            found[name] = kind
        elif isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else extra.get("options", [])
            if not choices and "default" not in extra:
                return None
            found[name] = extra.get("default", choices[0] if choices else None)
        elif kind in PRIMITIVE and "default" in extra:
            found[name] = extra["default"]
        else:
            return None
    return found


def nodes_that_take(kind: str) -> list[str]:
    """The nodes with an input and an output of this kind, that can be run with defaults."""
    skipped = set().union(*NOT_RUN.values())
    found: list[str] = []
    for name, node in _all_nodes().items():
        inputs = _inputs(node)
        if name not in skipped and inputs and kind in inputs.values() and kind in tuple(node.RETURN_TYPES):
            found.append(name)
    return found


def output_of(name: str, kind: str, given: Mapping[str, Any]) -> Any:
    """What a node gives of a kind, with its defaults."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = {key: given.get(value, value) if value in (MODEL, CLIP) else value for key, value in _inputs(node).items()}
    if hasattr(node, "define_schema"):
        result = node.execute(**inputs).args
    else:
        result = getattr(node(), node.FUNCTION)(**inputs)
    return result[tuple(node.RETURN_TYPES).index(kind)]
