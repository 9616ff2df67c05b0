"""How long others wait for a running ComfyUI that is given what a stranger could send, beside its own routes.

`python -m benchmarks.exhaustion` prints, for each case, the longest answer of GET /system_stats meanwhile.
"""

import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._host import ROOT, find_host

MEGABYTE = 1_000_000
PAUSE = 0.005  # seconds between two looks
SETTLE = 0.5  # seconds before and after a case


def main() -> None:
    host = find_host()
    from lora_pack.demo.host.base_directory import make_base_directory
    from lora_pack.demo.host.server import ServerSettings, running_server

    with tempfile.TemporaryDirectory(prefix="lora-loom-exhaustion-") as folder:
        base = Path(folder) / "base"
        settings = ServerSettings(
            host=host,
            python=Path(sys.executable),
            base=make_base_directory(base, {"lora_loom": ROOT}, []),
            log=base / "server.log",
        )
        _furnish(base / "models" / "loras")
        with running_server(settings) as server:
            server.client.object_info()
            print("| case | longest answer of GET /system_stats, ms |\n|---|---|")
            for name, act in _cases(server.client).items():
                print(f"| {name} | {_longest(server.address, act) * 1000:.0f} |", flush=True)


def _furnish(loras: Path) -> None:
    _write(loras / "metadata.safetensors", {"__metadata__": {"a": "x" * (95 * MEGABYTE)}})
    _write(loras / "tags.safetensors", {"__metadata__": {"ss_tag_frequency": _tags(7 * MEGABYTE)}})
    _write(loras / "fields.safetensors", {"__metadata__": {f"f{n}": "x" for n in range(400_000)}})
    with (loras / "large.safetensors").open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(2_000 * MEGABYTE)


def _tags(size: int) -> str:
    return json.dumps({"10_a": {f"tag {number}": 1 for number in range(size // 20)}})


def _write(path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def _cases(client: Any) -> Mapping[str, Callable[[], object]]:
    def ask(path: str, body: bytes | None = None) -> Callable[[], object]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{client.address}/{path}", data=body, headers=headers)

        def act() -> None:
            try:
                urllib.request.urlopen(request, timeout=300).read()
            except urllib.error.HTTPError as error:
                error.read()

        return act

    def graph(rows: str) -> Callable[[], object]:
        made = {
            "1": {"class_type": "LoraLoomStack", "inputs": {"rows": rows}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        return ask("prompt", json.dumps({"prompt": made}).encode())

    return {
        "nothing": lambda: time.sleep(1),
        "the host's own GET /object_info": ask("object_info"),
        "list of files": ask("lora_loom/files"),
        "info: 95 MB of metadata": ask("lora_loom/info?name=metadata.safetensors"),
        "info: 7 MB of tags": ask("lora_loom/info?name=tags.safetensors"),
        "info: 400,000 fields": ask("lora_loom/info?name=fields.safetensors"),
        "hashes of 2 GB": ask("lora_loom/hashes?name=large.safetensors"),
        "10 MB of tags in a stack": graph("<lora:a:1>" * MEGABYTE),
        "0.5 MB of tags in a stack": graph("<lora:a:1>" * 49_000),
        "1,000 rows of one file": graph("<lora:fields:1>\n" * 1_000),
        "20 kB of digits in a schedule": graph(f"<lora:tags:1:schedule=0:{'1' * 9_990}x>"),
        "20 kB of digits in block strengths": graph(f"<lora:tags:1:blocks=a={'1' * 20_000}x>"),
        "300 levels of JSON": ask("lora_loom/notes", b"[" * 900_000),
    }


def _longest(address: str, act: Callable[[], object]) -> float:
    """Seconds of the longest look while something is done."""
    found: list[float] = []
    is_done = threading.Event()

    def look() -> None:
        while not is_done.is_set():
            begun = time.perf_counter()
            urllib.request.urlopen(f"{address}/system_stats", timeout=300).read()
            found.append(time.perf_counter() - begun)
            time.sleep(PAUSE)

    watcher = threading.Thread(target=look)
    watcher.start()
    time.sleep(SETTLE)
    found.clear()
    act()
    time.sleep(SETTLE)
    is_done.set()
    watcher.join()
    return max(found)


if __name__ == "__main__":
    main()
