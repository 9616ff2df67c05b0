"""Training in a running ComfyUI: applied in the same run, watched, stopped, cancelled, killed, and gone on with."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lora_pack.demo.host.base_directory import make_base_directory
from lora_pack.demo.host.client import GraphFailed, HostError
from lora_pack.demo.host.picture_graph import CLIP_OUTPUT, PICTURE_NODE, picture_graph
from lora_pack.demo.host.server import RunningServer, running_server
from lora_pack.demo.host.training_graph import Concept, trained_picture_graph, training_graph
from lora_pack.demo.pictures import write_training_set
from safetensors import safe_open
from safetensors.torch import load_file

SECONDS = 120.0
CAPTION = "red circle on white"


def _concept(name: str, steps: int, **inputs: Any) -> Concept:
    settings = {
        "algorithm": "lora", "alpha": 0.0, "init": "kaiming", "optimiser": "adamw", "schedule": "cosine",
        "warmup": 0.05, "clip": 1.0, "weighting": "min-snr", "timesteps": "auto", "caption_dropout": 0.0,
        "checkpointing": "auto", "validate_every": 0, "save_every": 2, "preview_steps": 4, "preview_cfg": 3.0,
        "preview_seed": 0,
    }  # fmt: skip
    train = {
        "steps": steps, "batch": 2, "rank": 4, "learning_rate": 0.02, "targets": "attention", "seed": 5,
        "preview_every": 0, "preview_prompts": "",
    }  # fmt: skip
    return Concept(name, "shapes", "striped", train | inputs, settings)


@pytest.fixture
def own_server(server: RunningServer, tmp_path: Path) -> Iterator[RunningServer]:
    """A server like `server` that a test may kill."""
    packs = {entry.name: entry.resolve() for entry in (server.settings.base / "custom_nodes").iterdir()}
    base = make_base_directory(tmp_path, packs, [])
    with running_server(replace(server.settings, base=base, log=tmp_path / "server.log")) as running:
        _draw_shapes(running)
        yield running


def _draw_shapes(server: RunningServer) -> None:
    """Ten captioned pictures in input/shapes of a server."""
    write_training_set(server.settings.base / "input" / "shapes", 10, None, "striped", 128)


def _loras(server: RunningServer) -> Path:
    return server.settings.base / "models" / "loras"


def _until(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def _view(server: RunningServer, node: str) -> dict[str, Any] | None:
    return next((view for view in server.client.get("/lora_loom/training") if view["node"] == node), None)


def test_what_was_trained_is_applied_in_the_same_run_and_seen_by_a_page_opened_later(server: RunningServer) -> None:
    _draw_shapes(server)
    concept = _concept("seen", 3, preview_every=2, preview_prompts=CAPTION)
    plain = server.client.run(picture_graph(CAPTION, 7))
    answer = server.client.run(trained_picture_graph([concept], CAPTION, 7, {"seen": 1.0}))
    pictures = [server.client.picture(one.images(PICTURE_NODE)[0]) for one in (plain, answer)]
    assert pictures[0] != pictures[1]
    assert answer.text("seen").startswith("done: step 3 of 3, rank 4")
    view = _view(server, "seen")
    assert view and (view["state"], view["step"], len(view["losses"])) == ("done", 3, 3)
    assert [preview["step"] for preview in view["previews"]] == [0, 2, 3]
    assert (
        server.client.picture({k: view["previews"][0][k] for k in ("filename", "subfolder", "type")})[:4] == b"\x89PNG"
    )
    with safe_open(_loras(server) / "seen.safetensors", "pt") as file:
        said = file.metadata()
    assert said["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert "striped" in said["ss_tag_frequency"]
    again = server.client.run(trained_picture_graph([concept], CAPTION, 8, {"seen": 1.0}))
    assert "seen" in again.cached


def test_model_and_text_encoder_are_trained_and_applied_in_the_same_run(server: RunningServer) -> None:
    _draw_shapes(server)
    concept = replace(_concept("both", 3, preview_every=3, preview_prompts=CAPTION), with_text_encoder=True)
    graph = trained_picture_graph([concept], CAPTION, 7, {"both": 1.0})
    whole = server.client.run(graph)
    assert re.match(r"done: step 3 of 3.*\nTrained: \d+ layers of unet, 8 layers of clip_l, ", whole.text("both"))
    graph["positive"]["inputs"]["clip"] = graph["negative"]["inputs"]["clip"] = ["model", CLIP_OUTPUT]
    half = server.client.run(graph)
    assert "both" in half.cached
    pictures = [server.client.picture(one.images(PICTURE_NODE)[0]) for one in (whole, half)]
    assert pictures[0] != pictures[1]
    assert [key for key in load_file(_loras(server) / "both.safetensors") if key.startswith("lora_te")]


def test_stopping_keeps_the_result_and_goes_on_with_the_graph(server: RunningServer) -> None:
    _draw_shapes(server)
    graph = trained_picture_graph([_concept("stopped", 100_000)], CAPTION, 7, {"stopped": 1.0})
    prompt = server.client.queue(graph)
    _until(lambda: (_view(server, "stopped") or {}).get("step"))
    assert server.client.post("/lora_loom/training/stop", {"node": "stopped"}) == {"stopping": "stopped"}
    answer = server.client.wait(prompt)
    assert answer.images(PICTURE_NODE)
    assert answer.text("stopped").startswith("stopped: step ")
    with pytest.raises(HostError, match="not training"):
        server.client.post("/lora_loom/training/stop", {"node": "stopped"})
    for body in ({}, {"node": 7}, {"node": ["x"]}):
        with pytest.raises(HostError):
            server.client.post("/lora_loom/training/stop", body)


def test_cancelling_keeps_a_file_and_killing_loses_nothing(own_server: RunningServer) -> None:
    server = own_server
    unbroken = replace(_concept("unbroken", 12), with_text_encoder=True)
    server.client.run(training_graph([unbroken]))
    expected = load_file(_loras(server) / "unbroken.safetensors")

    long = training_graph([_concept("cancelled", 100_000)])
    prompt = server.client.queue(long)
    _until(lambda: (_view(server, "cancelled") or {}).get("step"))
    server.client.interrupt()
    with pytest.raises(GraphFailed, match="interrupted"):
        server.client.wait(prompt)
    view = _view(server, "cancelled") or {}
    step = view["step"]
    assert view["state"] == "cancelled", view
    assert (_loras(server) / f"cancelled_step{step}.safetensors").is_file()

    killed = replace(_concept("killed", 12), with_text_encoder=True)
    server.client.queue(training_graph([killed]))
    _until(lambda: (_view(server, "killed") or {}).get("step", 0) >= 5)
    server.process.kill()
    server.process.wait()
    with running_server(server.settings) as second:
        report = second.client.run(training_graph([killed])).text("killed")
        again = second.client.run(training_graph([unbroken])).text("unbroken")
    assert "goes on from step" in report
    assert again.startswith("done before: unbroken.safetensors")
    found = load_file(_loras(server) / "killed.safetensors")
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in found)
