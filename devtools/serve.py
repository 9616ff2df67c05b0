"""The `serve` command: a ComfyUI with its real web page, this pack and the demo model, until Ctrl-C."""

import argparse
import time

from demo.host.server import free_port, is_free

from .demo_host import HOST_CHOICES, chosen_host, demo_server
from .environment import ensure_setup
from .failures import CommandFailed, bad_input
from .layout import shown
from .stages import say, stage

USUAL_PORT = 8188


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help=f"port of the web page (default: {USUAL_PORT}, or any free one)")
    parser.add_argument("--host", choices=HOST_CHOICES, default=HOST_CHOICES[0], help="the ComfyUI to run")


def run(arguments: argparse.Namespace) -> int:
    port = _port(arguments.port)
    with stage("setup"):
        ensure_setup()
    with demo_server("serve", chosen_host(arguments.host), port=port, with_front_end=True) as server:
        say(f"web page: {server.address}/")
        say(f"log: {shown(server.settings.log)}; Ctrl-C stops")
        try:
            while server.process.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            say("stopping")
            return 0
    raise CommandFailed(f"ComfyUI ended by itself (log: {shown(server.settings.log)})")


def _port(asked: int | None) -> int:
    if asked is None:
        return USUAL_PORT if is_free(USUAL_PORT) else free_port()
    if not 1 <= asked <= 65535:
        raise bad_input(f"--port {asked}: must be 1 to 65535")
    if not is_free(asked):
        raise bad_input(f"--port {asked}: in use")
    return asked
