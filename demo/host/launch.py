"""Runs one ComfyUI's main.py with CPU-only torch prepared: `launch.py HOST_FOLDER [arguments of main.py]`."""

import os
import runpy
import sys
import threading
from pathlib import Path

OWN_FOLDER = str(Path(__file__).resolve().parent)
ENDS_WITH_STDIN = "LORA_LOOM_HOST_ENDS_WITH_STDIN"  # set by server.py, which holds the other end of the pipe


def end_with_stdin() -> None:
    """The pipe closes when the process that started this one ends, however it does: no host is left behind."""
    while os.read(0, 4096):  # not sys.stdin: its lock, held here for ever, would spoil an ordered end
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.path.insert(0, OWN_FOLDER)
    import cpu_packages

    # The host is alone on the path: this folder's server.py must not stand for the host's own.
    host = Path(sys.argv[1]).resolve()
    sys.path[:] = [str(host), *(entry for entry in sys.path if entry != OWN_FOLDER)]
    sys.argv = [str(host / "main.py"), *sys.argv[2:]]
    if os.environ.get(ENDS_WITH_STDIN):
        threading.Thread(target=end_with_stdin, daemon=True).start()
    cpu_packages.prepare()
    runpy.run_path(sys.argv[0], run_name="__main__")
