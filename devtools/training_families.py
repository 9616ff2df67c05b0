"""Trains a tiny model of every family on each host and writes down which of them train, as a page of docs/."""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .hosts import Host, bundled_host, current_host

ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/nodes/train/test_every_family.py"
CASE = re.compile(r"test_a_family_trains\[(?P<family>.+)-(?P<targets>[^-]+)\]$")
TARGETS = ("attention", "attention + ff", "all")
HEAD = """# Training by family

Tiny models of the hosts' own classes, built through the hosts' own loading path, are trained with a batch of two
captions. **yes** means, with checkpointing off and on: the gradient equals central differences of the loss (2e-3) and
is the same both ways (1e-5), the model's weights are bit-equal after it, every key of the file is found by this pack
and by the host's own loader, for the layers that were trained. Written by `python -m devtools.training_families` from
[its test]({test}).

"""


def main() -> None:
    hosts = [host for host in (bundled_host(), current_host()) if host is not None]
    results = [_results(host) for host in hosts]
    families = list(dict.fromkeys(family for found in results for family, _ in found))
    columns = [f"{host.version}: {targets}" for host in hosts for targets in TARGETS]
    lines = [f"| family | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for family in families:
        said = [found.get((family, targets), "no such model") for found in results for targets in TARGETS]
        lines.append(f"| {family} | {' | '.join(said)} |")
    text = HEAD.format(test=f"../{TEST}") + "\n".join(lines) + "\n"
    (ROOT / "docs" / "training_families.md").write_text(text, encoding="utf-8")


def _results(host: Host) -> dict[tuple[str, str], str]:
    """(family, targets) -> what became of it on a host."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", TEST, f"--junitxml={report}"]
        environment = os.environ | {"COMFYUI_PATH": str(host.path)}
        subprocess.run(command, cwd=ROOT, check=False, env=environment)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        found = ((CASE.match(case.get("name", "")), case) for case in cases)
        return {(m["family"], m["targets"]): _said(case) for m, case in found if m is not None}


def _said(case: ElementTree.Element) -> str:
    if case.find("skipped") is not None:
        return "no such model"
    return "yes" if case.find("failure") is None and case.find("error") is None else "no"


if __name__ == "__main__":
    main()
