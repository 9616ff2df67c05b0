"""A training as a person sees it in the host's real page: curves, pictures, time left, and the button that keeps it."""

import os
from pathlib import Path
from typing import Any

import pytest
from lora_pack.demo.host.server import RunningServer
from lora_pack.demo.pictures import write_training_set

from .test_web import OpenPage, Page, own_errors
from .test_web import open_page as open_page
from .test_web import page_server as page_server

MILLISECONDS = 120_000
STEPS = 100_000  # so that only a person ends it
GRAPH = """([name, steps, prompt]) => {
    app.graph.clear();
    const add = (type, x, y, values = {}) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) node.widgets.find((w) => w.name === key).value = value;
        return node;
    };
    const model = add("LoraLoomDemoModel", 0, 0);
    const folder = { folder: "shapes", trigger: "striped", resolution: 128, step: 64 };
    const pictures = add("LoraLoomDatasetFolder", 0, 160, folder);
    const settings = add("LoraLoomTrainSettings", 0, 560, { validate_every: 5, preview_steps: 4 });
    const train = add("LoraLoomTrain", 460, 0, {
        steps, batch: 2, rank: 4, filename: name, preview_every: 5, preview_prompts: prompt,
    });
    const shown = add("PreviewImage", 1000, 0);
    const slot = (node, name) => node.inputs.findIndex((one) => one.name === name);
    const join = (from, output, to, input) => from.connect(output, to, slot(to, input));
    join(model, 2, pictures, "vae");
    join(model, 1, pictures, "clip");
    join(model, 0, train, "model");
    join(pictures, 0, train, "dataset");
    join(settings, 0, train, "settings");
    join(train, 1, shown, "images");
    app.canvas.ds.scale = 0.75;
    app.canvas.ds.offset = [40, 60];
    app.canvas.setDirty(true, true);
    return String(train.id);
}"""


@pytest.fixture(params=["classic", "nodes 2.0"])
def page(request: pytest.FixtureRequest, page_server: RunningServer, open_page: OpenPage) -> Page:
    """A page that knows of a folder with ten pictures."""
    write_training_set(page_server.settings.base / "input" / "shapes", 10, None, "striped", 128)
    return open_page(request.param)


def _start(page: Page, name: str) -> Any:
    """Queue a training without end; its view."""
    page.evaluate(GRAPH, [name, STEPS, "striped red circle on white"])
    page.evaluate("() => app.queuePrompt(0)")
    view = page.locator(".lora-loom-training")
    view.locator("svg path.lora-loom-line-1").wait_for(state="attached", timeout=MILLISECONDS)
    return view


def _stop(view: Any) -> None:
    view.get_by_role("button", name="Stop and keep").click()
    view.get_by_text("result kept").wait_for(timeout=MILLISECONDS)


def _step(view: Any) -> int:
    """Of "step 12 of 100000"."""
    return int(view.locator(".lora-loom-head strong").inner_text().split()[1])


def _picture(page: Page, name: str, renderer: str) -> None:
    folder = os.environ.get("LORA_LOOM_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}_{renderer.replace(' ', '')}.png"))


def test_a_training_is_seen_as_it_runs_and_kept_when_it_is_stopped(
    page: Page, page_server: RunningServer, request: pytest.FixtureRequest
) -> None:
    renderer = request.node.callspec.params["page"]
    name = f"seen_{renderer.replace(' ', '_')}"
    view = _start(page, name)
    view.locator("svg path.lora-loom-line-2").wait_for(state="attached", timeout=MILLISECONDS)
    page.wait_for_function(
        "() => document.querySelectorAll('.lora-loom-previews img').length >= 2", timeout=MILLISECONDS
    )
    page.wait_for_function(
        "() => [...document.querySelectorAll('.lora-loom-previews img')].every((one) => one.naturalWidth > 0)",
        timeout=MILLISECONDS,
    )
    assert "left" in view.locator("p.lora-loom-quiet").first.inner_text()
    assert 0 < float(view.locator("progress").get_attribute("value")) < 1
    before = view.locator("svg path.lora-loom-line-1").get_attribute("d")
    page.wait_for_function(
        "(d) => document.querySelector('.lora-loom-training svg path.lora-loom-line-1').getAttribute('d') !== d",
        arg=before,
        timeout=MILLISECONDS,
    )
    _picture(page, "training", renderer)
    _stop(view)
    files = page_server.settings.base / "models" / "loras"
    assert (files / f"{name}.safetensors").is_file()
    assert view.get_by_role("button", name="Stop and keep").is_disabled()
    assert own_errors(page) == []


def test_a_page_that_is_loaded_anew_shows_the_training_under_way(page: Page, page_server: RunningServer) -> None:
    view = _start(page, "reloaded")
    kept = page.evaluate("() => app.graph.serialize()")
    later = "() => /step ([4-9]|\\d\\d+) of/.test(document.querySelector('.lora-loom-training strong').textContent)"
    page.wait_for_function(later, timeout=MILLISECONDS)
    step = _step(view)
    page.reload(timeout=MILLISECONDS)
    page.wait_for_function("() => !!(window.app?.vueAppReady && LiteGraph.registered_node_types.LoraLoomTrain)")
    page.evaluate("(graph) => app.loadGraphData(graph)", kept)
    view = page.locator(".lora-loom-training")
    view.locator("svg path.lora-loom-line-1").wait_for(state="attached", timeout=MILLISECONDS)
    assert _step(view) >= step
    _stop(view)
    assert own_errors(page) == []
