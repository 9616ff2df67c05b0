"""Builds graphs in ComfyUI's API format: the demo's one picture, with any number of LoRAs wired in."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent.parent / "graphs" / "picture.json"
PICTURE_NODE = "picture"
MODEL_OUTPUT, CLIP_OUTPUT, REPORT_OUTPUT = 0, 1, 2

GraphDict = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class LoraUse:
    """One LoRA of a graph."""

    file: str  # as the host's list of LoRA files names it
    strength_model: float
    strength_clip: float


def picture_graph(caption: str, seed: int, loras: Sequence[LoraUse] = ()) -> GraphDict:
    """The template with this caption and seed; each LoRA is one Apply LoRA node, whose report goes to the history."""
    graph: GraphDict = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    graph["positive"]["inputs"]["text"] = caption
    graph["sampler"]["inputs"]["seed"] = seed
    for index, lora in enumerate(loras):
        graph = _with_lora(graph, index, lora)
    return graph


def report_node(index: int) -> str:
    """Id of the node that holds the report of the graph's LoRA number `index`."""
    return f"report{index}"


def rewired(graph: GraphDict, before: str, after: str) -> GraphDict:
    """The graph with what took the model or the CLIP of node `before` taking them of node `after`."""
    moved = copy.deepcopy(graph)
    for node in moved.values():
        node["inputs"] = {key: _moved(value, before, after) for key, value in node["inputs"].items()}
    return moved


def _with_lora(graph: GraphDict, index: int, lora: LoraUse) -> GraphDict:
    before = "model" if index == 0 else f"lora{index - 1}"
    added = f"lora{index}"
    graph = rewired(graph, before, added)
    graph[added] = {
        "class_type": "LoraLoomApply",
        "inputs": {
            "model": [before, MODEL_OUTPUT],
            "clip": [before, CLIP_OUTPUT],
            "lora_name": lora.file,
            "strength_model": lora.strength_model,
            "strength_clip": lora.strength_clip,
            "on_unmatched": "report",
        },
    }
    graph[report_node(index)] = {"class_type": "PreviewAny", "inputs": {"source": [added, REPORT_OUTPUT]}}
    return graph


def _moved(value: Any, before: str, after: str) -> Any:
    """A link to the model or clip of node `before` becomes one to node `after`; anything else stays."""
    return [after, value[1]] if value in ([before, MODEL_OUTPUT], [before, CLIP_OUTPUT]) else value
