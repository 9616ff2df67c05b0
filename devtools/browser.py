"""Gets a Chromium for the page's tests where the machine has none and lets it be installed."""

import os
import shutil
import subprocess

from .stages import say, stage

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")  # as tests/e2e/test_web.py looks for them
COMMANDS = (("apt-get", "update", "-qq"), ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"))
SECONDS_AT_MOST = 600.0  # for each command


def find_browser() -> str | None:
    """The program that the page's tests start; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


def ensure_browser() -> bool:
    """Whether there is a Chromium, installed now where Debian's tools and the rights to use them are there."""
    if find_browser():
        return True
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        say("no Chromium, and it can't be installed from here: the page's tests are skipped")
        return False
    with stage("install chromium"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            for command in COMMANDS:
                subprocess.run(command, env=environment, check=True, capture_output=True, timeout=SECONDS_AT_MOST)
        except (OSError, subprocess.SubprocessError) as error:
            say(f"   chromium could not be installed ({str(error)[:200]}): the page's tests are skipped")
    return find_browser() is not None
