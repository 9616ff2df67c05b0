"""The pack in a running ComfyUI, seen as a person's browser or script sees it: over HTTP, by pictures and messages."""

import io
import itertools
import re
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lora_pack.demo.host.client import Answer, GraphFailed, GraphRefused, HostClient
from lora_pack.demo.host.picture_graph import PICTURE_NODE, GraphDict, LoraUse, picture_graph, report_node
from lora_pack.demo.host.server import RunningServer
from lora_pack.nodes.pictures.sweep_grid import GAP
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NODES = (
    "LoraLoomApply",
    "LoraLoomStack",
    "LoraLoomApplyStack",
    "LoraLoomInspect",
    "LoraLoomSchedule",
    "LoraLoomSweep",
    "LoraLoomSweepGrid",
)
CAPTION = "red star on white"
SEED = 11
SECONDS = 60.0  # that anything on a server may take
ROUNDING = 2  # of 255; a batch is not computed in the same order as a picture alone
ODD_NAME = "My LoRA-Loom (copy)"

_tries = itertools.count(1)


@pytest.fixture(scope="module")
def loras(server: RunningServer) -> tuple[str, str]:
    """Names of the demo's LoRA files A and B, as the host lists them."""
    described = server.client.object_info("LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"]
    names = described[0] if isinstance(described[0], list) else described[1]["options"]
    assert len(names) >= 2, f"the demo needs two LoRA files, the host lists {names}"
    return names[0], names[1]


@pytest.fixture(scope="module")
def base_picture(server: RunningServer) -> np.ndarray:
    return pixels(server.client, fresh_graph())


def fresh_graph(*loras: LoraUse, seed: int = SEED) -> GraphDict:
    """A graph whose sampling is not in the host's cache, while its model is.

    The host takes any denoise above 0.9999 for 1, so the picture stays the same. Emptying the cache would not do:
    it drops the model too, and with it whatever a faulty node has left in that model.
    """
    graph = picture_graph(CAPTION, seed, loras)
    graph["sampler"]["inputs"]["denoise"] = 1.0 - next(_tries) * 1e-7
    return graph


def pixels(client: HostClient, graph: GraphDict) -> np.ndarray:
    return pixels_of(client, client.run(graph))


def pixels_of(client: HostClient, answer: Answer) -> np.ndarray:
    assert "sampler" not in answer.cached, "the host answered from its cache: fresh_graph() is no longer fresh"
    file = client.picture(answer.images(PICTURE_NODE)[0])
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def full(file: str) -> LoraUse:
    return LoraUse(file, 1.0, 1.0)


@pytest.mark.parametrize("node_id", NODES)
def test_node_is_registered_and_every_input_has_a_tooltip(server: RunningServer, node_id: str) -> None:
    described = server.client.object_info(node_id)
    assert node_id in described
    inputs = {
        name: options
        for kind in ("required", "optional")
        for name, options in described[node_id]["input"].get(kind, {}).items()
    }
    assert inputs
    without = [name for name, options in inputs.items() if len(options) < 2 or not options[1].get("tooltip")]
    assert without == []


def start_lines(server: RunningServer) -> list[str]:
    """The log up to the line that gives the page's address."""
    lines = server.log_text().splitlines()
    end = next((number for number, line in enumerate(lines) if "To see the GUI go to" in line), len(lines))
    return lines[:end]


@pytest.mark.parametrize("fixture, name", [("server", "lora_loom"), ("oddly_named_server", ODD_NAME)])
def test_start_log_only_says_how_long_the_pack_took(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    lines = [line for line in start_lines(request.getfixturevalue(fixture)) if line.rstrip("/").endswith(name)]
    assert lines
    assert [line for line in lines if "seconds: " not in line] == []


@pytest.mark.parametrize("fixture", ["server", "oddly_named_server"])
def test_start_log_holds_no_complaint_about_the_pack(fixture: str, request: pytest.FixtureRequest) -> None:
    names = ("lora_loom", "lora-loom", "loraloom", "lora loom", "lora_core", ODD_NAME.lower())
    lines = [line for line in start_lines(request.getfixturevalue(fixture)) if "seconds: " not in line]
    named = [line for line in lines if any(name in line.lower() for name in names)]
    complaints = ("error", "warn", "fail", "cannot", "unable", "skip", "traceback", "deprecat", 'file "')
    assert [line for line in named if any(word in line.lower() for word in complaints)] == []


def test_pack_loads_from_a_folder_with_an_odd_name(oddly_named_server: RunningServer) -> None:
    assert [node for node in NODES if not oddly_named_server.client.object_info(node)] == []


def test_every_script_is_offered_to_the_page_once(oddly_named_server: RunningServer) -> None:
    offered = [urllib.parse.unquote(path) for path in oddly_named_server.client.get("/extensions")]
    offered = sorted(path for path in offered if not path.startswith("/extensions/core/"))
    web = ROOT / "web"
    own = [f"/extensions/{ODD_NAME}/{file.relative_to(web).as_posix()}" for file in sorted(web.rglob("*.js"))]
    assert offered == sorted(own)


def test_pictures_of_base_a_b_and_both_differ(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    a, b = map(full, loras)
    pictures = [base_picture, *(pixels(server.client, fresh_graph(*uses)) for uses in ((a,), (b,), (a, b)))]
    same = [pair for pair in itertools.combinations(range(4), 2) if np.array_equal(*(pictures[i] for i in pair))]
    assert same == []


def test_strength_zero_gives_the_base_picture(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    graph = fresh_graph(LoraUse(loras[0], 0.0, 0.0))
    assert np.array_equal(pixels(server.client, graph), base_picture)


def test_same_graph_gives_the_same_picture_twice(server: RunningServer, loras: tuple[str, str]) -> None:
    first, second = (pixels(server.client, fresh_graph(full(loras[0]))) for _ in range(2))
    assert np.array_equal(first, second)


def test_base_picture_is_the_same_after_a_graph_with_loras(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    server.client.run(fresh_graph(*map(full, loras)))
    assert np.array_equal(pixels(server.client, fresh_graph()), base_picture)


def test_report_of_each_lora_is_in_the_history(server: RunningServer, loras: tuple[str, str]) -> None:
    answer = server.client.run(fresh_graph(*map(full, loras)))
    for index in range(2):
        assert answer.text(report_node(index)).strip()


def test_strength_change_changes_the_picture(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    half, whole = (pixels(server.client, fresh_graph(LoraUse(loras[0], s, s))) for s in (0.5, 1.0))
    distance = [np.abs(picture.astype(int) - base_picture).sum() for picture in (half, whole)]
    assert 0 < distance[0] < distance[1]


def bad_file(server: RunningServer, name: str, content: bytes) -> str:
    file = server.settings.base / "models" / "loras" / name
    file.write_bytes(content)
    return name


BAD_FILES = {
    "zz_not_safetensors.safetensors": b"this is no safetensors file, only text" * 10,
    "zz_empty.safetensors": b"",
    "zz_cut_off.safetensors": (10_000).to_bytes(8, "little") + b'{"a.lora_up.weight": {"dtype": "F32",',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_told_in_one_line(server: RunningServer, name: str) -> None:
    graph = fresh_graph(full(bad_file(server, name, BAD_FILES[name])))
    with pytest.raises((GraphRefused, GraphFailed)) as caught:
        server.client.run(graph)
    message = told(caught.value)
    assert name in message
    assert "Traceback" not in message
    assert "\n" not in message.strip()


def test_missing_file_is_refused_before_the_run(server: RunningServer) -> None:
    with pytest.raises(GraphRefused) as caught:
        server.client.run(fresh_graph(full("zz_no_such_file.safetensors")))
    assert caught.value.status == 400
    assert "zz_no_such_file.safetensors" in told(caught.value)


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again, as long as a graph may take."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def told(error: GraphRefused | GraphFailed) -> str:
    """What the person sees."""
    return error.message if isinstance(error, GraphFailed) else str(error)


def test_base_picture_is_the_same_after_a_failed_graph(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    broken = bad_file(server, "zz_broken.safetensors", b"nothing")
    with pytest.raises((GraphRefused, GraphFailed)):
        server.client.run(fresh_graph(full(loras[0]), full(broken)))
    assert np.array_equal(pixels(server.client, fresh_graph()), base_picture)


def test_base_picture_is_the_same_after_sampling_was_interrupted(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    graph = fresh_graph(*map(full, loras))
    graph["sampler"]["inputs"]["steps"] = 10_000
    prompt_id = server.client.queue(graph)
    wait_until(lambda: re.search(r"\b[1-9]\d*/10000\b", server.log_text()) is not None)  # the sampler counts steps
    server.client.interrupt()
    with pytest.raises(GraphFailed, match="interrupted"):
        server.client.wait(prompt_id, timeout=60.0)
    assert np.array_equal(pixels(server.client, fresh_graph()), base_picture)


def test_base_picture_is_the_same_after_sampling_raised(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    graph = fresh_graph(*map(full, loras))
    graph["sampler"]["inputs"]["cfg"] = 1.0
    graph["latent"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 128, "height": 128, "length": 5, "batch_size": 1},
    }
    with pytest.raises(GraphFailed) as caught:
        server.client.run(graph)
    assert caught.value.node_type == "KSampler"
    assert np.array_equal(pixels(server.client, fresh_graph()), base_picture)


def with_schedule(graph: GraphDict, points: str) -> GraphDict:
    """The graph with a schedule wired to its first LoRA."""
    graph["schedule"] = {"class_type": "LoraLoomSchedule", "inputs": {"points": points}}
    graph["lora0"]["inputs"]["schedule"] = ["schedule", 0]
    return graph


def test_a_schedule_changes_the_picture_and_a_flat_one_is_the_strength_it_says(
    server: RunningServer, loras: tuple[str, str], base_picture: np.ndarray
) -> None:
    use = LoraUse(loras[1], 1.0, 0.0)
    fixed = pixels(server.client, fresh_graph(use))
    late = pixels(server.client, with_schedule(fresh_graph(use), "0:0, 0.5:0, 0.5:1"))
    assert not np.array_equal(late, fixed) and not np.array_equal(late, base_picture)
    off = pixels(server.client, with_schedule(fresh_graph(use), "0:0"))
    assert np.abs(off.astype(int) - base_picture).max() <= ROUNDING
    half = pixels(server.client, with_schedule(fresh_graph(use), "0:0.5"))
    expected = pixels(server.client, fresh_graph(LoraUse(loras[1], 0.5, 0.0)))
    assert np.abs(half.astype(int) - expected).max() <= ROUNDING
    with pytest.raises(GraphRefused, match="half"):
        server.client.run(with_schedule(fresh_graph(use), "half"))


def test_a_sweep_is_one_picture_whose_cells_are_the_pictures_of_separate_runs(
    server: RunningServer, loras: tuple[str, str]
) -> None:
    columns, rows = (0.0, 0.5, 1.0), (0.0, 1.0)
    graph = fresh_graph()
    inputs = {"model": ["model", 0], "latent": ["latent", 0], "lora_name": loras[1], "strengths": "0..1 step 0.5"}
    second = {"lora_name_2": loras[0], "strengths_2": "0, 1"}
    graph["sweep"] = {"class_type": "LoraLoomSweep", "inputs": {**inputs, **second}}
    graph["sampler"]["inputs"].update(model=["sweep", 0], latent_image=["sweep", 1])
    images = {"images": ["decode", 0], "labels": ["sweep", 2]}
    graph["grid"] = {"class_type": "LoraLoomSweepGrid", "inputs": images}
    graph[PICTURE_NODE]["inputs"]["images"] = ["grid", 0]
    grid = pixels(server.client, graph)
    side = 128  # pixels of a picture
    left, top = grid.shape[1] - 3 * (side + GAP), grid.shape[0] - 2 * (side + GAP)
    for row, second_strength in enumerate(rows):
        for column, strength in enumerate(columns):
            uses = (LoraUse(loras[1], strength, 0.0), LoraUse(loras[0], second_strength, 0.0))
            expected = pixels(server.client, fresh_graph(*uses))
            y, x = top + row * (side + GAP), left + column * (side + GAP)
            cell = grid[y : y + side, x : x + side].astype(int)
            assert np.abs(cell - expected).max() <= ROUNDING, (strength, second_strength)
