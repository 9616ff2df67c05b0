"""Memory is freed over HTTP while weaves of earlier LoRAs are loaded, and the next prompts run as ever."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_pack.demo.host.picture_graph import GraphDict, report_node
from lora_pack.demo.host.server import RunningServer, running_server
from lora_pack.devtools.hosts import Host
from safetensors.torch import load_file, save_file

from ..conftest import DEMO, DEMO_PACK, ROOT, server_settings
from .test_server import fresh_graph, full, pixels_of

RANK = 1024  # so that a weave has more bytes than the model, and the host unloads the model before it
SECONDS = 60.0  # for one prompt; a host without its worker never ends one


def _wide(source: Path, target: Path, seed: int) -> None:
    """A file for the layers of another one, of RANK and random numbers."""
    generator = torch.Generator().manual_seed(seed)
    wide: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(source).items():
        if ".lora_down." in key or ".lora_A." in key:
            wide[key] = torch.randn(RANK, *tensor.shape[1:], generator=generator) * 0.02
        elif ".lora_up." in key or ".lora_B." in key:
            wide[key] = torch.randn(tensor.shape[0], RANK, *tensor.shape[2:], generator=generator) * 0.02
        else:
            wide[key] = torch.tensor(float(RANK))
    save_file(wide, target)


@pytest.fixture(scope="module")
def own_server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own, since a fault here would end the worker that other tests need."""
    base = tmp_path_factory.mktemp("freeing")
    settings = server_settings(host, base, {"lora_loom": ROOT, "lora_loom_demo": DEMO_PACK})
    source = min((DEMO / "loras").glob("*.safetensors"))
    for number, name in enumerate(("one", "two")):
        _wide(source, base / "models" / "loras" / f"{name}.safetensors", number)
    with running_server(settings) as running:
        yield running


def _in_branch(graph: GraphDict) -> GraphDict:
    for node in graph.values():
        if node["class_type"] == "LoraLoomApply":
            node["inputs"]["mode"] = "branch"
    return graph


def _picture(server: RunningServer, *files: str) -> np.ndarray:
    graph = _in_branch(fresh_graph(*(full(f"{file}.safetensors") for file in files)))
    answer = server.client.run(graph, SECONDS)
    reports = [answer.text(report_node(number)) for number, _ in enumerate(files)]
    assert all("beside the layers" in report for report in reports)
    return pixels_of(server.client, answer)


CHANGES = {
    "another file": [["one"], ["two"]],
    "two nodes": [["one"], ["one", "two"], ["two"]],
    "switched off": [["one"], ["two"], []],
    "off and on": [["one"], [], ["two"]],
    "three plans": [["one"], ["two"], ["two", "one"]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_prompt_runs_after_unloading_all_models(own_server: RunningServer, change: str) -> None:
    base = _picture(own_server)
    pictures = [_picture(own_server, *files) for files in CHANGES[change]]
    own_server.client.post("/free", {"unload_models": True, "free_memory": False})
    assert np.array_equal(_picture(own_server, *CHANGES[change][-1]), pictures[-1])
    own_server.client.post("/free", {"unload_models": True, "free_memory": True})
    assert np.array_equal(_picture(own_server), base)
