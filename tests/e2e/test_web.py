"""The pack's widgets in the host's real page, in both renderers, driven through Chromium.

Needs Playwright for Python and a Chromium: CHROMIUM names its program, else it is looked for on the path.
"""

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.demo.host.base_directory import make_base_directory
from lora_pack.demo.host.client import GraphRefused
from lora_pack.demo.host.server import RunningServer, ServerSettings, running_server
from lora_pack.devtools.hosts import Host
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
DEMO_LORA = min(file.name for file in (DEMO / "loras").glob("*.safetensors"))
NODE_IDS = sorted(page.stem for page in (ROOT / "web" / "docs").glob("*.md"))
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
MILLISECONDS_TO_LOAD = 120_000
MILLISECONDS_TO_RUN = 60_000
# Inputs of the examples that name files which are the user's, and those that the host blames together with them.
CHOICES = {"ckpt_name", "folder", "lora_name", "rows", "strengths", "lora_name_2", "strengths_2"}

MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"

UNUSED_STRENGTHS = (number / 100 for number in range(50, 150))  # a graph of its own for each run, since hosts cache

Page = Any
OpenPage = Callable[[str], Page]


@pytest.fixture(scope="module")
def page_server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The host with its real page, the demo's model and LoRA, and two small files, one with an odd key."""
    files = tmp_path_factory.mktemp("loras")
    layers = {
        f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_{name}.lora_{part}.weight": torch.zeros(shape)
        for name in ("to_q", "to_k")
        for part, shape in (("down", (4, 32)), ("up", (32, 4)))
    }
    save_file(layers, files / "whole.safetensors")
    save_file({**layers, "lora_unet_odd.strange": torch.zeros(1)}, files / "part.safetensors")
    base = tmp_path_factory.mktemp("page server")
    packs = {"lora_loom": ROOT, "lora_loom_demo": DEMO / "custom_nodes" / "lora_loom_demo"}
    make_base_directory(base, packs, [*files.iterdir(), *(DEMO / "loras").glob("*.safetensors")])
    _furnish(base / "models" / "loras", layers)
    user = base / "user" / "default"
    user.mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps({"Comfy.TutorialCompleted": True}), encoding="utf-8")
    settings = ServerSettings(
        host=host.path,
        python=Path(sys.executable),
        base=base,
        log=base / "server.log",
        with_front_end=True,
        environment={"LORA_LOOM_DEMO_DIR": str(DEMO)},
    )
    with running_server(settings) as running:
        yield running


def _furnish(loras: Path, layers: dict[str, torch.Tensor]) -> None:
    """Files in folders, one of them with a picture, and one whose metadata and notes are full of markup; no links."""
    for link in [path for path in loras.iterdir() if path.is_symlink()]:
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    for number in range(12):
        folder = loras / ("styles" if number % 2 else "people/old")
        folder.mkdir(parents=True, exist_ok=True)
        title = {"modelspec.title": f"Study {number}", "ss_base_model_version": "sd_v1"}
        save_file(layers, folder / f"study_{number:02}.safetensors", title)
    Image.new("RGB", (512, 768), (70, 110, 150)).save(loras / "styles" / "study_01.png")
    words = json.dumps({f"10_{MARKUP}": {MARKUP: 3, "ink": 2}})
    hostile = {"modelspec.title": MARKUP, "modelspec.trigger_phrase": MARKUP, "ss_tag_frequency": words, MARKUP: MARKUP}
    save_file(layers, loras / "hostile.safetensors", hostile)
    notes = {"notes": f"</textarea>{MARKUP}", "civitai": {"trainedWords": [MARKUP]}}
    (loras / "hostile.metadata.json").write_text(json.dumps(notes), encoding="utf-8")


@pytest.fixture(scope="module")
def open_page(page_server: RunningServer) -> Iterator[OpenPage]:
    """A page by renderer, "classic" or "nodes 2.0"; each is opened once."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(PROGRAMS)} is on the path, and CHROMIUM is not set")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no Playwright: pip install playwright")
    pages: dict[str, Page] = {}
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        stack.callback(browser.close)

        def opened(renderer: str) -> Page:
            if renderer not in pages:
                pages[renderer] = _load(browser, page_server.address, renderer)
            pages[renderer].evaluate("() => app.graph.clear()")
            return pages[renderer]

        yield opened


@pytest.fixture(params=["classic", "nodes 2.0"])
def page(request: pytest.FixtureRequest, open_page: OpenPage) -> Page:
    """An empty graph in the page."""
    return open_page(request.param)


def _load(browser: Any, address: str, renderer: str) -> Page:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.errors_seen = []
    page.on("pageerror", lambda error: page.errors_seen.append(f"{error}\n{getattr(error, 'stack', '')}"))
    page.on("console", lambda message: page.errors_seen.append(message.text) if message.type == "error" else None)
    page.route("**/*", lambda route: route.continue_() if _is_local(route.request.url) else route.abort())
    page.set_default_timeout(MILLISECONDS_TO_RUN)
    page.goto(address, timeout=MILLISECONDS_TO_LOAD)
    ready = "() => !!(window.app?.vueAppReady && window.LiteGraph?.registered_node_types.LoraLoomStack)"
    page.wait_for_function(ready, timeout=MILLISECONDS_TO_LOAD)
    page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", renderer != "classic")
    return page


def own_errors(page: Page) -> list[str]:
    """What the page said of errors in this pack."""
    marks = ("/extensions/lora_loom/", "extension 'lora_loom'")
    return [error for error in page.errors_seen if any(mark in error for mark in marks)]


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def add_node(page: Page, node_type: str, values: dict[str, Any] | None = None) -> str:
    """Its id."""
    script = """([type, values]) => {
        const node = LiteGraph.createNode(type);
        node.pos = [60 + 560 * app.graph.nodes.length, 120];
        app.graph.add(node);
        for (const [name, value] of Object.entries(values)) {
            const widget = node.widgets.find((widget) => widget.name === name);
            widget.value = value;
            widget.callback?.(value);
        }
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [60, 40];
        app.canvas.setDirty(true, true);
        return String(node.id);
    }"""
    return page.evaluate(script, [node_type, values or {}])


def api_graph(page: Page) -> dict[str, Any]:
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def stack_rows(page: Page) -> list[str]:
    """What each LoRA Stack node would send to the host."""
    return [node["inputs"]["rows"] for node in api_graph(page).values() if node["class_type"] == "LoraLoomStack"]


def editor(page: Page) -> Any:
    return page.locator(".lora-loom-stack")


def lines(page: Page) -> list[str]:
    """The rows of the only stack, as lines of text."""
    return stack_rows(page)[0].splitlines()


def pick(page: Page, query: str) -> None:
    """Type into the open picker and take the first file."""
    page.get_by_role("combobox", name="Search files").fill(query)
    page.keyboard.press("Enter")


def add_row(page: Page, query: str) -> None:
    editor(page).get_by_role("button", name="+ Add LoRA").click()
    pick(page, query)


def drag(page: Page, element: Any, x: float, y: float, steps: int = 5) -> None:
    """Press an element in its middle and let go after moving by (x, y) pixels."""
    box = element.bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + x, start[1] + y, steps=steps)
    page.mouse.up()


def from_menu(page: Page, row: int, item: str) -> None:
    editor(page).get_by_role("button", name="Menu of the row").nth(row).click()
    page.get_by_role("menuitem", name=item).click()


def test_five_rows_are_added_by_search_moved_switched_scrubbed_and_kept(page: Page) -> None:
    add_node(page, "LoraLoomStack")
    for query in ("whole", "part", "study 03", "old study_04", "STUDY_05"):
        add_row(page, query)
    names = ["whole", "part", "styles/study_03", "people/old/study_04", "styles/study_05"]
    assert lines(page) == [f"<lora:{name}.safetensors:1>" for name in names]
    height = editor(page).get_by_role("listitem").first.bounding_box()["height"]
    drag(page, editor(page).get_by_role("button", name="Drag to move").first, 0, 2.2 * height)
    assert lines(page)[:3] == [f"<lora:{name}.safetensors:1>" for name in (names[1], names[2], names[0])]
    editor(page).get_by_role("checkbox", name="On", exact=True).nth(1).click()
    drag(page, editor(page).get_by_role("spinbutton").nth(2), -40, 0)
    assert lines(page)[1:3] == ["# <lora:styles/study_03.safetensors:1>", "<lora:whole.safetensors:0.5>"]
    kept = stack_rows(page)
    page.evaluate("async () => { await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize()))); }")
    editor(page).get_by_role("listitem").nth(4).wait_for()
    assert stack_rows(page) == kept


def test_a_strength_is_typed_and_stepped_with_keys_and_a_click_right_after_takes_both(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>\n<lora:part:1>"})
    field = editor(page).get_by_role("spinbutton").first
    field.click()
    page.keyboard.type("0.5")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    from_menu(page, 0, "Move down")
    assert lines(page) == ["<lora:part:1>", "<lora:whole:0.56>"]


def test_clip_has_its_own_strength_on_demand(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:0.8>"})
    from_menu(page, 0, "Own strength for CLIP")
    field = editor(page).get_by_role("spinbutton", name="CLIP strength")
    field.fill("-0.5")
    field.press("Enter")
    assert lines(page) == ["<lora:whole:0.8:-0.5>"]
    from_menu(page, 0, "One strength for both")
    assert lines(page) == ["<lora:whole:0.8>"]


def test_all_rows_are_switched_and_scaled_at_once(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>\n# <lora:part:0.5:-2>"})
    switch = editor(page).get_by_role("checkbox", name="Switch all rows")
    assert switch.evaluate("(box) => box.indeterminate")
    switch.click()
    drag(page, editor(page).get_by_title("Drag sideways to scale"), -100, 0)
    assert lines(page) == ["<lora:whole:0.5>", "<lora:part:0.25:-1>"]
    switch.click()
    assert lines(page) == ["# <lora:whole:0.5>", "# <lora:part:0.25:-1>"]


def test_rows_are_moved_and_removed_with_the_keyboard(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>\n<lora:part:1>\n<lora:study_01:1>"})
    editor(page).get_by_role("button", name="Choose a LoRA file: study_01").focus()
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    assert lines(page) == ["<lora:study_01:1>", "<lora:whole:1>", "<lora:part:1>"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    assert lines(page) == ["<lora:study_01:1>", "<lora:part:1>"]


def test_tags_are_pasted_out_of_a_prompt(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>"})
    editor(page).get_by_role("button", name="Choose a LoRA file: whole").evaluate("""(target) => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", "a cat, <lora:part:0.8>, ink <lora:styles/study_01:0.5:0.2>");
        target.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }""")
    assert lines(page) == ["<lora:whole:1>", "<lora:part:0.8>", "<lora:styles/study_01:0.5:0.2>"]


def test_a_missing_file_is_red_and_replaced_by_the_nearest_name(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "hello there\n# a remark\n<lora:styles/Study-01b:0.7>\n<lora:whole:1>"})
    assert editor(page).locator(".lora-loom-wrong").count() == 2
    editor(page).get_by_role("button", name="Use styles/study_01.safetensors").click()
    assert lines(page) == ["hello there", "# a remark", "<lora:styles/study_01.safetensors:0.7>", "<lora:whole:1>"]
    from_menu(page, 1, "Remove")
    assert lines(page)[-1] == "<lora:styles/study_01.safetensors:0.7>"


def test_a_row_has_block_strengths_and_a_schedule_of_its_own(page: Page) -> None:
    add_node(page, "LoraLoomStack")
    add_row(page, "whole")
    from_menu(page, 0, "Block strengths…")
    dialog = page.get_by_role("dialog", name="Block strengths")
    field, use = dialog.get_by_role("textbox"), dialog.get_by_role("button", name="Use")
    assert use.is_disabled()
    field.fill("in4")
    assert use.is_disabled() and "PATTERN=FACTOR" in dialog.inner_text()
    field.fill("in4=0.5, out*=0")
    field.press("Enter")
    assert lines(page) == ["<lora:whole.safetensors:1:blocks=in4=0.5, out*=0>"]
    from_menu(page, 0, "Schedule…")
    dialog = page.get_by_role("dialog", name="Schedule")
    dialog.get_by_role("textbox").fill("0:0, 1:1")
    dialog.get_by_role("button", name="Use").click()
    assert lines(page) == ["<lora:whole.safetensors:1:blocks=in4=0.5, out*=0:schedule=0:0, 1:1>"]
    editor(page).get_by_role("button", name="Block strengths: in4=0.5, out*=0").click()
    page.keyboard.press("Escape")
    assert len(lines(page)[0]) == len("<lora:whole.safetensors:1:blocks=in4=0.5, out*=0:schedule=0:0, 1:1>")
    editor(page).get_by_role("button", name="Schedule: 0:0, 1:1").click()
    page.get_by_role("dialog", name="Schedule").get_by_role("button", name="Remove").click()
    assert lines(page) == ["<lora:whole.safetensors:1:blocks=in4=0.5, out*=0>"]


def test_the_picker_shows_folders_and_the_picture_beside_a_file(page: Page) -> None:
    add_node(page, "LoraLoomStack")
    editor(page).get_by_role("button", name="+ Add LoRA").click()
    page.get_by_role("button", name="styles 6").click()
    page.get_by_text("6 of ").wait_for()
    page.get_by_role("option", name="study_01").hover()
    picture = page.locator(".lora-loom-shown img")
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('.lora-loom-shown img').naturalWidth > 0")
    page.get_by_role("option", name="study_01").click()
    assert lines(page) == ["<lora:styles/study_01.safetensors:1>"]
    editor(page).get_by_role("button", name="+ Add LoRA").click()
    page.keyboard.press("Escape")
    assert page.locator(".lora-loom-picker").count() == 0


def test_rows_are_kept_as_a_template_and_taken_up_again(page: Page, page_server: RunningServer) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:0.3>"})
    editor(page).get_by_role("button", name="Templates").click()
    page.get_by_role("textbox", name="Name of the template").fill("my ink")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Add these rows: my ink").click()
    assert lines(page) == ["<lora:whole:0.3>", "<lora:whole:0.3>"]
    assert page_server.client.get("/lora_loom/templates") == {"templates": {"my ink": "<lora:whole:0.3>"}}
    editor(page).get_by_role("button", name="Templates").click()
    page.get_by_role("button", name="Remove: my ink").click()
    page.get_by_text("No templates yet.").wait_for()
    page.keyboard.press("Escape")


def open_info(page: Page, row: int = 0) -> Any:
    editor(page).get_by_role("listitem").nth(row).locator(".lora-loom-dot").click()
    dialog = page.locator(".lora-loom-dialog")
    dialog.locator("form").wait_for()
    return dialog


def test_nothing_in_a_file_or_its_notes_is_taken_as_markup(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:hostile:1>"})
    dialog = open_info(page)
    dialog.locator("summary").click()
    assert dialog.get_by_role("cell", name=MARKUP, exact=True).count() == 3
    assert dialog.get_by_label("Notes").input_value() == f"</textarea>{MARKUP}"
    assert dialog.locator(".lora-loom-chip").count() == 2
    assert dialog.locator("img, script").count() == 0
    page.keyboard.press("Escape")
    editor(page).get_by_role("button", name="+ Add LoRA").click()
    page.get_by_role("combobox", name="Search files").fill("hostile")
    page.locator(".lora-loom-shown").get_by_text(MARKUP).wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("() => window.hacked") is None


def test_notes_and_trigger_words_are_written_beside_the_file(page: Page, page_server: RunningServer) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:styles/study_03:1>"})
    dialog = open_info(page)
    dialog.get_by_label("Trigger words, one per line").fill("sks\nink wash")
    dialog.get_by_label("Notes").fill("good at 0.7")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_text("saved beside the file").wait_for()
    file = page_server.settings.base / "models" / "loras" / "styles" / "study_03.metadata.json"
    fields = json.loads(file.read_text("utf-8"))
    assert (fields["notes"], fields["civitai"]["trainedWords"]) == ("good at 0.7", ["sks", "ink wash"])
    page.keyboard.press("Escape")
    assert open_info(page).get_by_role("button", name="sks").count() == 1
    page.keyboard.press("Escape")
    file.unlink()


def test_a_stack_is_applied_and_its_rows_get_their_badges(page: Page) -> None:
    """Queued as a person does it."""
    demo = sorted(file.name for file in (DEMO / "loras").glob("*.safetensors"))
    for node_type in ("LoraLoomDemoModel", "LoraLoomStack", "LoraLoomApplyStack", "PreviewAny"):
        rows = {"rows": "\n".join(f"<lora:{name}:{next(UNUSED_STRENGTHS)}>" for name in demo)}
        add_node(page, node_type, rows if node_type == "LoraLoomStack" else None)
    page.evaluate("""() => {
        const [model, stack, apply, preview] = app.graph.nodes;
        model.connect(0, apply, apply.findInputSlot("model"));
        model.connect(1, apply, apply.findInputSlot("clip"));
        stack.connect(0, apply, apply.findInputSlot("lora_stack"));
        apply.connect(2, preview, 0);
        app.queuePrompt(0, 1);
    }""")
    editor(page).locator(".lora-loom-dot.lora-loom-whole").nth(len(demo) - 1).wait_for()
    dialog = open_info(page)
    cells = dialog.locator(".lora-loom-cell")
    page.wait_for_function(
        "() => document.querySelector('.lora-loom-dialog .lora-loom-cell')?.ariaLabel.includes('size')"
    )
    assert cells.count() > 3
    assert "matched" in cells.first.get_attribute("aria-label")
    page.keyboard.press("Escape")


def test_rows_are_edited_as_text(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>"})
    editor(page).get_by_role("button", name="Text", exact=True).click()
    editor(page).get_by_role("textbox").fill("<lora:part:0.25>")
    editor(page).get_by_role("button", name="Rows", exact=True).click()
    assert editor(page).get_by_role("spinbutton").input_value() == "0.25"
    assert stack_rows(page) == ["<lora:part:0.25>"]


def test_rows_survive_saving_and_loading_the_workflow(page: Page) -> None:
    rows = "<lora:whole:0.5>\nhello there"
    add_node(page, "LoraLoomStack", {"rows": rows})
    page.evaluate("async () => { await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize()))); }")
    assert stack_rows(page) == [rows]
    editor(page).get_by_label("Line as text").wait_for()


def test_an_edit_is_undone_in_the_graph_and_on_the_page(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>\n<lora:part:1>"})
    page.mouse.click(900, 700)  # the front end notes the graph's state at a click
    from_menu(page, 1, "Remove")
    assert stack_rows(page) == ["<lora:whole:1>"]
    page.mouse.move(900, 700)
    page.evaluate("() => document.activeElement?.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelectorAll('.lora-loom-stack .lora-loom-name').length === 2")
    assert stack_rows(page) == ["<lora:whole:1>\n<lora:part:1>"]


def test_rows_of_a_pasted_node_are_its_own(page: Page) -> None:
    add_node(page, "LoraLoomStack", {"rows": "<lora:whole:1>"})
    page.evaluate("""() => {
        app.canvas.selectNode(app.graph.nodes[0]);
        app.canvas.copyToClipboard();
        app.canvas.pasteFromClipboard();
        app.graph.nodes[1].widgets[0].value = "<lora:part:1>";
    }""")
    assert stack_rows(page) == ["<lora:whole:1>", "<lora:part:1>"]


def points(page: Page) -> str:
    """What the only LoRA Schedule node would send to the host."""
    return next(node["inputs"]["points"] for node in api_graph(page).values())


def test_points_of_a_schedule_are_dragged_added_and_removed_and_the_text_follows(page: Page) -> None:
    add_node(page, "LoraLoomSchedule", {"points": "0:0, 0.5:1, 1:1"})
    curve = page.locator(".lora-loom-schedule")
    plot, handles = curve.locator(".lora-loom-plot"), curve.get_by_role("slider")
    box = plot.bounding_box()
    before = curve.locator("path").nth(1).get_attribute("d")
    drag(page, handles.nth(1), -0.2 * box["width"], box["height"] / 3)
    moved = [float(number) for number in points(page).split(", ")[1].split(":")]
    assert moved == [pytest.approx(0.3, abs=0.03), pytest.approx(0.5, abs=0.05)]
    assert curve.locator("textarea").input_value() == points(page)
    assert curve.locator("path").nth(1).get_attribute("d") != before
    page.mouse.dblclick(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    assert handles.count() == 4
    added = [float(number) for number in points(page).split(", ")[2].split(":")]
    assert added == [pytest.approx(0.8, abs=0.03), pytest.approx(0.75, abs=0.05)]
    handles.nth(2).click(button="right")
    assert handles.count() == 3
    handles.nth(1).click(button="right")
    assert points(page) == "0:0, 1:1"
    assert page.evaluate("() => app.graph.nodes.length") == 1


def test_points_of_a_schedule_are_moved_with_the_keyboard_and_tell_a_screen_reader(page: Page) -> None:
    add_node(page, "LoraLoomSchedule", {"points": "0:1, 0.5:1"})
    handles = page.locator(".lora-loom-schedule").get_by_role("slider")
    handles.nth(1).focus()
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert points(page) == "0:1, 0.45:0.94"
    assert handles.nth(1).get_attribute("aria-label") == "Point 2 of 2"
    assert handles.nth(1).get_attribute("aria-valuetext") == "position 0.45, factor 0.94"
    page.keyboard.press("Insert")
    assert points(page) == "0:1, 0.45:0.94, 0.725:0.94"
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")  # one point stays
    assert points(page) == "0:1"
    assert page.evaluate("() => app.graph.nodes.length") == 1


def test_the_curve_follows_the_text_and_what_cannot_be_read_is_marked_and_kept(page: Page) -> None:
    add_node(page, "LoraLoomSchedule")
    curve = page.locator(".lora-loom-schedule")
    area, handles = curve.locator("textarea"), curve.get_by_role("slider")
    area.fill("0:0, 0.25:1, 0.75:1, 1:0")
    assert handles.count() == 4
    assert "M0 1L0 1L0.25 " in curve.locator("path").nth(1).get_attribute("d")
    area.fill("0:0, half, 1:1")
    curve.get_by_text("Not read: half").wait_for()
    assert area.get_attribute("aria-invalid") == "true"
    assert points(page) == "0:0, half, 1:1"
    area.fill("0:0, 1:1")
    assert area.get_attribute("aria-invalid") == "false"
    page.evaluate("async () => { await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize()))); }")
    page.wait_for_function("() => document.querySelectorAll('.lora-loom-point').length === 2")
    assert points(page) == "0:0, 1:1"


def test_a_schedule_edit_is_undone_in_the_graph_and_on_the_page(page: Page) -> None:
    add_node(page, "LoraLoomSchedule", {"points": "0:0, 0.5:1, 1:1"})
    page.mouse.click(900, 700)  # the front end notes the graph's state at a click
    page.locator(".lora-loom-schedule").get_by_role("slider").nth(1).click(button="right")
    assert points(page) == "0:0, 1:1"
    page.mouse.move(900, 700)
    page.evaluate("() => document.activeElement?.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelectorAll('.lora-loom-point').length === 3")
    assert points(page) == "0:0, 0.5:1, 1:1"


@pytest.mark.parametrize(
    ("file", "label", "summary"),
    [
        ("whole.safetensors", "✓ all keys known", "holds 2 layers; 4 of 4 keys known"),
        ("part.safetensors", "! known in part", "holds 2 layers; 4 of 5 keys known"),
    ],
)
def test_the_report_is_shown_in_the_node_after_a_run(page: Page, file: str, label: str, summary: str) -> None:
    node = add_node(page, "LoraLoomInspect", {"lora_name": file})
    report = page.locator(".lora-loom-report")
    assert report.get_by_text("Not run yet").count() == 1
    page.evaluate("() => app.queuePrompt(0, 1)")
    report.locator(".lora-loom-badge").wait_for(timeout=MILLISECONDS_TO_RUN)
    assert report.locator(".lora-loom-badge").inner_text() == label
    assert report.get_by_text(summary).count() == 1
    if file == "part.safetensors":
        report.get_by_text("1 unmatched key").click()
        report.get_by_text("lora_unet_odd.strange").wait_for()
    assert set(api_graph(page)[node]["inputs"]) == {"lora_name"}  # the report itself is not sent


def apply_to_demo_model(page: Page, lora_name: str) -> Any:
    """The report of an Apply LoRA node that was queued on the demo's model."""
    for node_type in ("LoraLoomDemoModel", "LoraLoomApply", "PreviewAny"):
        values = {"lora_name": lora_name, "strength_model": next(UNUSED_STRENGTHS)}
        add_node(page, node_type, values if node_type == "LoraLoomApply" else None)
    page.evaluate("""() => {
        const [model, apply, preview] = app.graph.nodes;
        model.connect(0, apply, apply.findInputSlot("model"));
        model.connect(1, apply, apply.findInputSlot("clip"));
        apply.connect(2, preview, 0);
        app.queuePrompt(0, 1);
    }""")
    report = page.locator(".lora-loom-report")
    report.locator(".lora-loom-badge").wait_for(timeout=MILLISECONDS_TO_RUN)
    return report


def test_apply_lora_shows_what_reached_the_model(page: Page) -> None:
    report = apply_to_demo_model(page, DEMO_LORA)
    assert report.locator(".lora-loom-badge").inner_text() == "✓ all matched"
    assert report.get_by_text("nothing").count() == 0


def test_a_result_from_the_cache_says_why_there_is_no_report(page: Page) -> None:
    report = apply_to_demo_model(page, DEMO_LORA)
    page.evaluate("async () => { await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize()))); }")
    report.get_by_text("Not run yet").wait_for()
    page.evaluate("() => app.queuePrompt(0, 1)")
    report.get_by_text("taken from the host's cache").wait_for(timeout=MILLISECONDS_TO_RUN)


def test_apply_lora_shows_why_it_stopped(page: Page) -> None:
    report = apply_to_demo_model(page, "part.safetensors")
    assert report.locator(".lora-loom-badge").inner_text() == "✕ stopped, nothing applied"
    assert report.get_by_text("part.safetensors").count() == 1
    page.keyboard.press("Escape")  # the host's own message


def test_a_new_page_says_that_the_node_has_not_run(page: Page) -> None:
    add_node(page, "LoraLoomInspect", {"lora_name": "whole.safetensors"})
    page.evaluate("async () => { await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize()))); }")
    page.locator(".lora-loom-report").get_by_text("Not run yet").wait_for()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_opens_and_lacks_nothing_but_the_files(
    page: Page, page_server: RunningServer, example: Path
) -> None:
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", json.loads(example.read_text("utf-8")))
    page.keyboard.press("Escape")
    assert page.evaluate("() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)") == []
    with pytest.raises(GraphRefused) as refusal:
        page_server.client.queue(api_graph(page))
    errors = [error for node in refusal.value.node_errors.values() for error in node["errors"]]
    assert errors
    assert {error["extra_info"]["input_name"] for error in errors} <= CHOICES, errors


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_the_help_page_is_where_the_page_looks_for_it(page_server: RunningServer, node_id: str) -> None:
    pack = page_server.client.object_info(node_id)[node_id]["python_module"].rpartition(".")[2]
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxy.open(f"{page_server.address}/extensions/{pack}/docs/{node_id}.md", timeout=30) as answer:
        assert answer.read().decode().startswith("# ")


def test_the_pack_raised_no_error_on_the_page(page: Page) -> None:
    assert own_errors(page) == []
