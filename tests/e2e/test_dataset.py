"""Training pictures in a running ComfyUI: what a person sees of a folder, of a batch, and of mistakes."""

from pathlib import Path

import pytest
from lora_pack.demo.host.client import GraphFailed, GraphRefused
from lora_pack.demo.host.server import RunningServer
from lora_pack.demo.pictures import write_training_set

DEMO_NODE = {"model": {"class_type": "LoraLoomDemoModel", "inputs": {}}}
SETTINGS = {
    "vae": ["model", 2],
    "clip": ["model", 1],
    "trigger": "striped",
    "resolution": 128,
    "step": 8,
    "repeats": 1,
    "on_bad_picture": "error",
    "cache": "memory",
}


@pytest.fixture
def shapes(server: RunningServer) -> Path:
    """Ten captioned pictures in input/shapes of the server."""
    folder = server.settings.base / "input" / "shapes"
    write_training_set(folder, 10, None, "striped", 128)
    return folder


def _graph(folder: str) -> dict[str, dict]:
    node = {"class_type": "LoraLoomDatasetFolder", "inputs": {"folder": folder, **SETTINGS}}
    sheet = {"class_type": "PreviewImage", "inputs": {"images": ["dataset", 2]}}
    return DEMO_NODE | {"dataset": node, "sheet": sheet}


def test_a_folder_is_offered_read_and_shown(server: RunningServer, shapes: Path) -> None:
    described = server.client.object_info("LoraLoomDatasetFolder")["LoraLoomDatasetFolder"]["input"]["required"]
    assert "shapes" in str(described["folder"])
    answer = server.client.run(_graph("shapes"))
    assert answer.text("dataset").startswith("10 pictures, 10 per epoch.")
    assert len(answer.images("sheet")) == 1
    assert "dataset" in server.client.run(_graph("shapes")).cached
    (shapes / "03.txt").write_text("neon heart on cyan", encoding="utf-8")
    changed = server.client.run(_graph("shapes"))
    assert "dataset" not in changed.cached
    assert changed.text("dataset").startswith("10 pictures")


def test_mistakes_are_told_in_words_before_or_in_the_run(server: RunningServer, shapes: Path) -> None:
    for folder, reason in (("gone", "no such folder"), ("../output", "only folders in ComfyUI's input folder")):
        with pytest.raises(GraphRefused) as refused:
            server.client.run(_graph(folder))
        assert reason in str(refused.value.node_errors)
    (shapes / "05.png").write_bytes(b"broken")
    with pytest.raises(GraphFailed) as failed:
        server.client.run(_graph("shapes"))
    assert "1 of 10 pictures can't be used: 05.png (it is damaged or no picture" in failed.value.message


def test_batches_out_of_the_graph_are_taken_whole(server: RunningServer) -> None:
    graph = DEMO_NODE | {
        "images": {"class_type": "EmptyImage", "inputs": {"width": 128, "height": 64, "batch_size": 3, "color": 255}},
        "dataset": {
            "class_type": "LoraLoomDataset",
            "inputs": {"images": ["images", 0], "captions": "circle\nsquare\nstar", **SETTINGS},
        },
    }
    report = server.client.run(graph).text("dataset")
    assert report.startswith("3 pictures, 3 per epoch.")
    assert "picture 2 is the same picture as picture 1" in report
    graph["dataset"]["inputs"]["captions"] = "circle\nsquare"
    with pytest.raises(GraphFailed, match="there are 2 captions for 3 pictures"):
        server.client.run(graph)
