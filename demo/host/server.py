"""Starts one ComfyUI as a child process in a base directory of its own, and stops it however the caller ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import HostClient, HostError
from .launch import ENDS_WITH_STDIN

LAUNCHER = Path(__file__).with_name("launch.py")
SECONDS_TO_START = 420.0  # ten are usual; a machine with other work to do needs far more
SECONDS_TO_STOP = 5.0
SECONDS_BETWEEN_NOTES = 5.0


class HostDidNotStart(HostError):
    """The host ended, or did not answer in time; the message holds the last line of its log."""


@dataclass(frozen=True)
class ServerSettings:
    host: Path  # the folder with main.py
    python: Path
    base: Path  # the base directory: custom_nodes, models, input, output, temp, user
    log: Path
    port: int = 0  # 0: any free one
    with_front_end: bool = False  # False: an empty page, so that no front-end package is needed
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningServer:
    settings: ServerSettings
    client: HostClient
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        return self.client.address

    def log_text(self) -> str:
        return self.settings.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running_server(
    settings: ServerSettings, note: Callable[[str], object] = lambda text: None
) -> Iterator[RunningServer]:
    """Inside: the host answers HTTP. On exit, however caused, its whole process group has ended."""
    port = settings.port or free_port()
    settings.base.mkdir(parents=True, exist_ok=True)
    settings.log.parent.mkdir(parents=True, exist_ok=True)
    with settings.log.open("wb") as log:
        process = subprocess.Popen[bytes](
            _command(settings, port), stdout=log, stderr=subprocess.STDOUT, **_options(settings)
        )
    try:
        server = RunningServer(settings, HostClient(f"http://127.0.0.1:{port}"), process)
        _wait_until_up(server, note)
        yield server
    finally:
        _stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name == "posix":  # as the server does: a port that only waits for old connections to expire is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _command(settings: ServerSettings, port: int) -> list[str]:
    command = [settings.python, LAUNCHER, settings.host, "--cpu", "--listen", "127.0.0.1", "--port", port]
    command += ["--base-directory", settings.base, "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    if not settings.with_front_end:
        command += ["--front-end-root", _empty_page(settings.base), "--disable-api-nodes", "--preview-method", "none"]
    return [str(part) for part in command]


def _empty_page(base: Path) -> Path:
    folder = base / "front_end"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text("<!doctype html><title>headless</title>\n", encoding="utf-8")
    return folder


def _options(settings: ServerSettings) -> dict[str, Any]:
    """A process group of its own, so that one signal ends the host with all that it started."""
    mixed_in = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
    environment = {key: value for key, value in os.environ.items() if key not in mixed_in}
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", ENDS_WITH_STDIN: "1", **settings.environment}
    group = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        if sys.platform == "win32"
        else {"start_new_session": True}
    )
    return {"cwd": settings.base, "env": environment, "stdin": subprocess.PIPE, **group}


def _wait_until_up(server: RunningServer, note: Callable[[str], object]) -> None:
    start = noted_at = time.monotonic()
    while not server.client.is_up():
        now = time.monotonic()
        if server.process.poll() is not None:
            raise HostDidNotStart(f"the host ended with exit code {server.process.returncode}: {_last_line(server)}")
        if now - start > SECONDS_TO_START:
            raise HostDidNotStart(f"the host does not answer after {SECONDS_TO_START:.0f} s: {_last_line(server)}")
        if now - noted_at > SECONDS_BETWEEN_NOTES:
            note(f"still starting ({now - start:.0f} s)")
            noted_at = now
        time.sleep(0.1)


def _last_line(server: RunningServer) -> str:
    lines = [line.strip() for line in server.log_text().splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (log: {server.settings.log})"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        _signal_group(process, forced=False)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(process, forced=True)
    process.communicate()  # waits, and closes the pipe to it


def _signal_group(process: "subprocess.Popen[bytes]", *, forced: bool) -> None:
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        return
    try:
        os.killpg(process.pid, signal.SIGKILL if forced else signal.SIGTERM)
    except ProcessLookupError:
        pass  # all of the group have ended
