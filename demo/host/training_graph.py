"""Builds the graph that trains the demo's concepts on drawn pictures, and pictures of what was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .picture_graph import CLIP_OUTPUT, MODEL_OUTPUT, GraphDict, picture_graph, rewired

LORA_OUTPUT, CURVE_OUTPUT, REPORT_OUTPUT = 0, 1, 3


@dataclass(frozen=True)
class Concept:
    """Something to learn from ten pictures."""

    name: str
    folder: str  # with the pictures, in the host's input folder
    trigger: str  # put in front of the captions; empty: nothing
    inputs: Mapping[str, Any]  # of Train LoRA
    settings: Mapping[str, Any]  # of Train LoRA Settings
    keep: Sequence[str] = ()  # prompts whose pictures should stay as they are
    with_text_encoder: bool = False  # trained too


def training_graph(concepts: Sequence[Concept]) -> GraphDict:
    """The demo's model, and for each concept its pictures, its training, its curve and its report."""
    graph: GraphDict = {"model": {"class_type": "LoraLoomDemoModel", "inputs": {}}}
    for concept in concepts:
        name = concept.name
        graph[f"{name} pictures"] = {
            "class_type": "LoraLoomDatasetFolder",
            "inputs": {
                "folder": concept.folder, "vae": ["model", 2], "clip": ["model", 1], "trigger": concept.trigger,
                "resolution": 128, "step": 64, "repeats": 1, "on_bad_picture": "error", "cache": "memory",
            },
        }  # fmt: skip
        graph[f"{name} settings"] = {"class_type": "LoraLoomTrainSettings", "inputs": dict(concept.settings)}
        graph[name] = {
            "class_type": "LoraLoomTrain",
            "inputs": {
                "model": ["model", 0], "dataset": [f"{name} pictures", 0], "settings": [f"{name} settings", 0],
                "filename": name, "keep_prompts": "\n".join(concept.keep), **concept.inputs,
                **({"clip": ["model", CLIP_OUTPUT]} if concept.with_text_encoder else {}),
            },
        }  # fmt: skip
        graph[f"{name} curve"] = {"class_type": "PreviewImage", "inputs": {"images": [name, CURVE_OUTPUT]}}
        graph[f"{name} report"] = {"class_type": "PreviewAny", "inputs": {"source": [name, REPORT_OUTPUT]}}
    return graph


def trained_picture_graph(
    concepts: Sequence[Concept], caption: str, seed: int, strengths: Mapping[str, float]
) -> GraphDict:
    """A picture with what was trained in the same graph, at strengths by the concepts' names.

    The host keeps the results of nodes that are in the next graph too, so each concept is trained once.
    """
    graph, before = picture_graph(caption, seed), "model"
    for name, strength in strengths.items():
        applied = f"{name} applied"
        graph = rewired(graph, before, applied)
        graph[applied] = {
            "class_type": "LoraLoomApply",
            "inputs": {
                "model": [before, MODEL_OUTPUT], "clip": [before, CLIP_OUTPUT], "lora_name": "",
                "strength_model": strength, "strength_clip": strength, "on_unmatched": "error",
                "lora": [name, LORA_OUTPUT],
            },
        }  # fmt: skip
        before = applied
    return {**graph, **training_graph(concepts)}
