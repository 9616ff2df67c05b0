"""The stack's widget with 100 rows and 5,000 files in Chromium, and the list of files over HTTP, cold and warm.

In both renderers: opening the picker, a keystroke in it until the list is drawn, and the frame time while the graph is
panned, against the same graph without the node. Needs Playwright and a Chromium, see tests/e2e/test_web.py.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ._host import find_host
from ._measure import Row, arguments, write_rows

ROOT = Path(__file__).resolve().parents[1]
FILES, ROWS = 5_000, 100
RUNS = 5
FRAMES = 60
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOST = "the list of ComfyUI's LoraLoader"
TEXTS = ("s", "st", "study 4", "people 49")

PICKER = """async (text) => {
    const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const start = performance.now();
    document.querySelector(".lora-loom-add").click();
    document.querySelector(".lora-loom-files").getBoundingClientRect();
    const opened = performance.now() - start;
    await drawn();
    const field = document.querySelector(".lora-loom-picker > input");
    const begin = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input"));
    document.querySelector(".lora-loom-files").getBoundingClientRect();
    const typed = performance.now() - begin;
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    return [opened, typed];
}"""
# The host's own list of the same files, in a LoraLoader node: until it is laid out, and until a key has filtered it.
HOST_LIST = """async ([classic, text]) => {
    const settled = () => new Promise((done) => setTimeout(done));
    const laidOut = (selector) => document.querySelector(selector)?.getBoundingClientRect();
    const node = app.graph.nodes[0];
    const start = performance.now();
    if (classic) {
        const place = { canvasX: node.pos[0] + 100, canvasY: node.pos[1] + 60, clientX: 300, clientY: 200 };
        node.widgets[0].onClick({ e: place, node, canvas: app.canvas });
    } else {
        const shown = document.querySelector(`[data-node-id="${node.id}"] [role="combobox"]`);
        shown.dispatchEvent(new MouseEvent("click", { bubbles: true }));
        await settled();
    }
    const list = classic ? ".litecontextmenu" : "[role='listbox']";
    if (!laidOut(list)) return null;
    const opened = performance.now() - start;
    await new Promise((done) => setTimeout(done, 500));
    const field = document.querySelector(classic ? ".comfy-context-menu-filter" : ".p-select-filter");
    if (!field) {
        document.querySelector(`[data-node-id="${node.id}"] [role="combobox"]`)
            .dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", code: "Escape", bubbles: true }));
        await new Promise((done) => setTimeout(done, 500));
        return [opened, null]; // nothing to type into
    }
    const begin = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    if (!classic) await settled();
    laidOut(list);
    const typed = performance.now() - begin;
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", code: "Escape", bubbles: true }));
    if (classic) LiteGraph.closeAllContextMenus();
    await new Promise((done) => setTimeout(done, 500));
    return [opened, typed];
}"""
PAN = """async (frames) => {
    const start = performance.now();
    for (let frame = 0; frame < frames; frame += 1) {
        app.canvas.ds.offset[0] += frame % 2 ? 3 : -3;
        app.canvas.setDirty(true, true);
        await new Promise(requestAnimationFrame);
    }
    return (performance.now() - start) / frames;
}"""
LOADERS = """(count) => {
    app.graph.clear();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 60];
    for (let number = 0; number < count; number += 1) {
        const node = LiteGraph.createNode("LoraLoader");
        node.pos = [60 + 10 * (number % 10), 60 + 30 * Math.floor(number / 10)];
        app.graph.add(node);
    }
}"""
FILL = """(rows) => {
    app.graph.clear();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 60];
    if (!rows) return;
    const node = LiteGraph.createNode("LoraLoomStack");
    node.pos = [60, 60];
    app.graph.add(node);
    node.widgets[0].value = rows;
}"""


def main() -> None:
    """Start the host once, measure, write the rows."""
    options = arguments(__doc__ or "", RUNS)
    host = find_host()
    from lora_pack.demo.host.base_directory import make_base_directory
    from lora_pack.demo.host.server import ServerSettings, running_server

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base_directory(base, {"lora_loom": ROOT}, [])
        _write_files(base / "models" / "loras")
        (base / "user" / "default").mkdir(parents=True, exist_ok=True)
        (base / "user" / "default" / "comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}')
        settings = ServerSettings(
            host=host, python=Path(sys.executable), base=base, log=base / "server.log", with_front_end=True
        )
        with running_server(settings) as server:
            rows += _listing(server.address, options.runs)
            for renderer in ("classic", "nodes 2.0"):
                rows += _page(server.address, renderer, options.runs)
    for row in rows:
        print(row, flush=True)
    write_rows(options.json, rows)


def _write_files(folder: Path) -> None:
    tensors = {
        f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_{part}.weight": torch.zeros(shape)
        for part, shape in (("down", (4, 32)), ("up", (32, 4)))
    }
    tags = json.dumps({"10_sks": {f"tag {number}": number for number in range(200)}})
    for number in range(FILES):
        inside = folder / ("styles", "people/old", "people/new", "things")[number % 4]
        inside.mkdir(parents=True, exist_ok=True)
        about = {"modelspec.title": f"Study {number}", "ss_base_model_version": "sd_v1", "ss_tag_frequency": tags}
        save_file(tensors, inside / f"study_{number:04}.safetensors", about)


def _listing(address: str, runs: int) -> list[Row]:
    def ask() -> float:
        start = time.perf_counter()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/lora_loom/files") as answer:
            assert len(json.loads(answer.read())["files"]) == FILES
        return time.perf_counter() - start

    cold, warm = ask(), statistics.median(ask() for _ in range(runs))
    return [_row(f"list of {FILES} files, cold", cold * 1000), _row(f"list of {FILES} files, warm", warm * 1000)]


def _page(address: str, renderer: str, runs: int) -> list[Row]:
    from playwright.sync_api import sync_playwright

    texts = [TEXTS[run % len(TEXTS)] for run in range(max(runs, len(TEXTS)))]
    names = [f"<lora:things/study_{4 * number + 3:04}.safetensors:0.5>" for number in range(ROWS)]
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        page: Any = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(address, timeout=120_000)
        ready = "() => !!(window.app?.vueAppReady && window.LiteGraph?.registered_node_types.LoraLoomStack)"
        page.wait_for_function(ready, timeout=120_000)
        page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", renderer != "classic")
        page.evaluate(FILL, "")
        page.evaluate(PAN, FRAMES)
        empty = statistics.median(page.evaluate(PAN, FRAMES) for _ in range(runs))
        page.evaluate(FILL, "\n".join(names))
        page.wait_for_selector(".lora-loom-stack")
        page.evaluate(PICKER, "")
        page.wait_for_timeout(1500)
        full = statistics.median(page.evaluate(PAN, FRAMES) for _ in range(runs))
        times = [page.evaluate(PICKER, text) for text in texts]
        page.evaluate(LOADERS, 1)
        page.wait_for_timeout(1500)
        host_times = [page.evaluate(HOST_LIST, [renderer == "classic", text]) for text in texts]
        page.evaluate(LOADERS, ROWS)
        page.wait_for_timeout(1500)
        page.evaluate(PAN, FRAMES)
        loaders = statistics.median(page.evaluate(PAN, FRAMES) for _ in range(runs))
        browser.close()
    opened, typed = (statistics.median(column) for column in zip(*times, strict=True))
    host_opened, host_typed = (_median(column) for column in zip(*host_times, strict=True))
    return [
        _row(f"{renderer}: open the picker, {FILES} files", opened, host_opened, HOST),
        _row(f"{renderer}: keystroke to list, {FILES} files", typed, host_typed, HOST),
        _row(f"{renderer}: frame, {ROWS} rows", full, empty, "empty graph"),
        _row(f"{renderer}: frame, {ROWS} rows", full, loaders, f"{ROWS} LoraLoader nodes"),
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _row(case: str, milliseconds: float, peer: float | None = None, name: str = "") -> Row:
    return Row(case, milliseconds, peer, name, None if peer is None else peer / milliseconds, "ms")


if __name__ == "__main__":
    main()
