#!/usr/bin/env python3
"""The developer's command table: `python dev.py COMMAND`. Every command's work lives in devtools/."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  this very check is what an old Python must get to
    sys.stderr.write("dev.py: needs Python 3.10 or newer, this is %d.%d\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)

from devtools import bench, demo, device, environment, lint, serve, suite
from devtools.command_line import Command, main

COMMANDS = (
    Command("setup", "make .venv, install the pinned packages, get the ComfyUI that the tests run on", environment),
    Command("demo", "make a contact sheet: no LoRA, LoRA A, LoRA B, A + B, through a real ComfyUI", demo),
    Command("test", "run lint and every test, once per ComfyUI present", suite),
    Command("bench", "run all or the named benchmarks", bench),
    Command("device", "try and measure everything on the card at hand, and write the table", device),
    Command("lint", "run ruff (rules and format) and pyright", lint),
    Command("serve", "start ComfyUI with this pack and the demo model in it, until Ctrl-C", serve),
)

if __name__ == "__main__":
    sys.exit(main(COMMANDS))
