"""The pack's own tests of its nodes, run on a device: the host's models lie there, everything else is as in any run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from .._host import ROOT
from .._measure import Row
from .record import Record

TESTS = ("tests/nodes/apply", "tests/nodes/comfy_bridge", "tests/nodes/train")
FEW = "tests/nodes/apply/test_block_strengths.py"  # for a rehearsal
WORKERS = 6
QUIETLY = ("-o", "filterwarnings=ignore", "-o", "minversion=7.0", "-q", "--tb=short")
FIGURES = ("tests", "failures", "errors", "skipped")
SHOWN = 40  # failed tests that are named


def run(record: Record, *, small: bool) -> None:
    """Count what passed, and name what did not."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = (FEW,) if small else TESTS
        many = () if small else ("-n", str(WORKERS), "--dist", "loadfile")
        cache = ("-o", f"cache_dir={folder}/cache")
        command = [sys.executable, "-m", "pytest", *QUIETLY, *cache, *many, f"--junitxml={report}", *tests]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if not report.is_file():
            record.note(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
            return
        _tell(record, ElementTree.parse(report).getroot())


def _environment() -> dict[str, str]:
    """One thread a worker, as in any run of the suite."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _tell(record: Record, report: ElementTree.Element) -> None:
    counted = {name: sum(int(suite.get(name, 0)) for suite in report.iter("testsuite")) for name in FIGURES}
    failed = counted["failures"] + counted["errors"]
    passed = counted["tests"] - failed - counted["skipped"]
    record.check("tests of the nodes that fail", failed, 0, "tests")
    record.check("runs in which no test passed", float(passed == 0), 0, "runs")
    record.row(Row("tests of the nodes that pass", passed, None, "", None, "tests"))
    record.row(Row("tests of the nodes that are skipped", counted["skipped"], None, "", None, "tests"))
    for number, line in enumerate(_failures(report)):
        if number < SHOWN:
            record.note(line)


def _failures(report: ElementTree.Element) -> Iterator[str]:
    for case in report.iter("testcase"):
        for problem in (*case.findall("failure"), *case.findall("error")):
            last = (problem.text or "").strip().splitlines()
            where = "; ".join(line for line in last if line.startswith("E "))[:300]
            yield f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}: {problem.get('message', '')[:200]} {where}"
