"""Nothing that is listed, typed or sent exhausts a running ComfyUI: its memory, and the answers that it gives."""

import json
import os
import re
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lora_pack.demo.host.client import GraphRefused
from lora_pack.demo.host.server import RunningServer, running_server
from lora_pack.devtools.hosts import Host

from ..conftest import DEMO_PACK, ROOT, server_settings

MEGABYTE = 1_000_000
GROWTH = 64  # MB that the server may take for any one of these
SECONDS = 60.0
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def hostile(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose loras folder holds what strangers could send."""
    base = tmp_path_factory.mktemp("hostile")
    settings = server_settings(host, base, {"lora_loom": ROOT, "lora_loom_demo": DEMO_PACK})
    folder = base / "models" / "loras"
    _write(folder / "metadata.safetensors", {"__metadata__": {"a": "x" * (95 * MEGABYTE)}}, 0)
    _write(folder / "fields.safetensors", {"__metadata__": {f"f{n}": "x" for n in range(100_000)}}, 0)
    _write(folder / "thin.safetensors", {}, 0)
    (folder / "thin.png").write_bytes(_png(1, 79_000_000))
    shared = {"dtype": "F32", "shape": [1_000_000], "data_offsets": [0, 4_000_000]}
    _write(folder / "shared.safetensors", {f"lora_unet_{n}.lora_down.weight": shared for n in range(500)}, 4_000_000)
    _write(folder / "pipe.safetensors", {}, 0)
    os.mkfifo(folder / "pipe.metadata.json")
    with running_server(settings) as running:
        running.client.object_info("LoraLoomApply")
        yield running


def _write(path: Path, header: Any, size: int) -> None:
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)


def _png(width: int, height: int) -> bytes:
    """A picture of one colour; its size is all that it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _peak(server: RunningServer, *, reset: bool = False) -> float:
    """MB that the server had at most since the last reset."""
    process = Path("/proc") / str(server.process.pid)
    if reset:
        (process / "clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def _ask(server: RunningServer, path: str, body: bytes | None = None, headers: Any = JSON) -> tuple[int, bytes]:
    """Status and content of an answer."""
    request = urllib.request.Request(f"{server.client.address}/lora_loom/{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _is_one_line(content: bytes) -> bool:
    said = json.loads(content)["error"]
    return "\n" not in said and len(said) < 500 and "Traceback" not in said


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("files", 200, b"metadata.safetensors"),
        ("info?name=metadata.safetensors", 200, b"of which at most 4000000 are read here"),
        ("info?name=fields.safetensors", 200, b"and 99700 more fields"),
        ("info?name=shared.safetensors", 200, b"shares bytes with another"),
        ("info?name=pipe.safetensors", 200, b"no regular file"),
        ("hashes?name=metadata.safetensors", 400, b"of which at most 4000000 are read here"),
        ("preview?name=thin.safetensors", 400, b"16384 along a side"),
    ],
)
def test_a_hostile_file_is_shown_within_the_limit_of_memory(
    hostile: RunningServer, path: str, status: int, words: bytes
) -> None:
    before = _peak(hostile, reset=True)
    for _ in range(3):
        found, content = _ask(hostile, path)
        assert found == status and words in content
        assert len(content) < 200_000
    assert _peak(hostile) - before <= GROWTH


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("LoraLoomStack", {"rows": "<lora:thin:1>" * 800_000}),
        ("LoraLoomStack", {"rows": "<lora:thin:1>\n" * 2_000}),
        ("LoraLoomStack", {"rows": '<lora:"' * 70_000}),
        ("LoraLoomStack", {"rows": f"<lora:thin:{'1' * 20_000}>"}),
        ("LoraLoomStack", {"rows": f"<lora:thin:1:schedule=0:{'1' * 20_000}x>"}),
        ("LoraLoomStack", {"rows": "[" * 100_000}),
        ("LoraLoomSchedule", {"points": "1" * 20_000 + "x"}),
    ],
)
def test_a_hostile_text_in_a_graph_is_refused_within_the_limit_of_memory(
    hostile: RunningServer, name: str, inputs: dict[str, Any]
) -> None:
    before = _peak(hostile, reset=True)
    graph = {
        "1": {"class_type": name, "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with pytest.raises(GraphRefused) as caught:
        hostile.client.queue(graph)
    assert len(json.dumps(caught.value.body)) < len(json.dumps(graph)) + 20_000
    assert _peak(hostile) - before <= GROWTH + 3 * len(json.dumps(graph)) / MEGABYTE  # the host keeps the graph itself


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("notes", b'{"name": "thin.safetensors", "notes": "\\ud800", "trigger_words": []}'),
        ("notes", b'{"name": "thin.safetensors", "notes": "", "trigger_words": ["\\udfff"]}'),
        ("notes", b'{"name": "thin\\ud800.safetensors", "notes": "", "trigger_words": []}'),
        ("notes", b'{"name": "\xff\xfe"}'),
        ("notes", b"[" * 200_000),
        ("templates", b'{"name": "\\ud800", "rows": "x"}'),
        ("templates", b'{"a":' * 100_000),
        ("training/stop", b"[" * 200_000),
        ("training/stop", b"\xff"),
        ("training/stop", b"{}"),
    ],
)
def test_a_broken_body_is_told_in_one_line(hostile: RunningServer, path: str, body: bytes) -> None:
    status, content = _ask(hostile, path, body)
    assert status == 400 and _is_one_line(content)


def test_a_training_is_stopped_by_json_alone(hostile: RunningServer) -> None:
    status, content = _ask(hostile, "training/stop", b'{"node": "1"}', {"Content-Type": "text/plain"})
    assert status == 400 and b"application/json" in content


def test_a_body_in_pieces_is_cut_off_at_the_limit_while_it_is_read(hostile: RunningServer) -> None:
    before = _peak(hostile, reset=True)
    address = urllib.parse.urlsplit(hostile.client.address)
    sent = 0
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=SECONDS) as connection:
        head = ["POST /lora_loom/notes HTTP/1.1", "Host: x", "Content-Type: application/json"]
        connection.sendall("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while sent < 90 * MEGABYTE:
                connection.sendall(piece)
                sent += 0x10000
            connection.sendall(b"0\r\n\r\n")
            answer = connection.recv(4096)
        except OSError:  # the server has closed it
            answer = b" 400 "
    assert b" 400 " in answer or b" 413 " in answer
    assert _peak(hostile) - before <= GROWTH


def test_no_answer_names_a_folder_of_the_machine_and_all_forbid_guessing_their_type(hostile: RunningServer) -> None:
    base = str(hostile.settings.base)
    for path in ("files", "info?name=thin.safetensors", "info?name=nope", "templates", "training", "preview?name=nope"):
        request = urllib.request.Request(f"{hostile.client.address}/lora_loom/{path}")
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert base.encode() not in answer.read()


def test_many_requests_at_once_are_answered(hostile: RunningServer) -> None:
    before = _peak(hostile, reset=True)
    found: list[int] = []

    def ask() -> None:
        for path in ("info?name=thin.safetensors", "preview?name=thin.safetensors", "files"):
            found.append(_ask(hostile, path)[0])

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(found)) == [200, 400] and len(found) == 120
    assert _peak(hostile) - before <= GROWTH
