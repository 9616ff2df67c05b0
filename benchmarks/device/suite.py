"""The pack's own tests of its nodes, run on a device: the host's models lie there, everything else is as in any run."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from .._host import ROOT
from .._measure import Row
from .record import Record

TESTS = ("tests/nodes/train", "tests/nodes/comfy_bridge", "tests/nodes/apply")
FEW = "tests/nodes/apply/test_block_strengths.py"  # for a rehearsal
SOME = "LORA_LOOM_TESTS"  # an expression of pytest's -k: only these tests
WORKERS = 5
QUIETLY = ("-o", "filterwarnings=ignore", "-o", "minversion=7.0", "-v", "--tb=short")
FIGURES = ("tests", "failures", "errors", "skipped")
SHOWN = 60  # failed tests that are named
LINE = re.compile(r"^\S+\.py:\d+: in ")  # of a traceback
SHOWN_LINES = 4


def run(record: Record, *, small: bool) -> None:
    """Count what passed, and name what did not; what was seen so far where the tests do not come to their end."""
    log = record.file.with_name(f"{record.part}-tests.log")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = (FEW,) if small else TESTS
        many = () if small else ("-n", str(WORKERS), "--dist", "loadfile")
        cache = ("-o", f"cache_dir={folder}/cache")
        some = ("-k", os.environ[SOME]) if os.environ.get(SOME) else ()
        command = [sys.executable, "-m", "pytest", *QUIETLY, *cache, *many, *some, f"--junitxml={report}", *tests]
        with log.open("wb") as output:
            done = subprocess.run(
                command, cwd=ROOT, env=_environment(), stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if not report.is_file():
            record.note(f"pytest ended with {done.returncode}: {log.read_text('utf-8', 'replace')[-1500:]}")
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
            lines = (problem.text or "").strip().splitlines()
            ways = [line.strip() for line in lines if LINE.match(line)][-SHOWN_LINES:]
            test = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
            yield f"{test}: {problem.get('message', '')[:200]} ({' > '.join(ways)})"
