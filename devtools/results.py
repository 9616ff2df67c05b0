"""What a test stage reported: counts, and each failed and skipped test by name, read from JUnit XML or TAP."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Results:
    """One stage. `failed` and `skipped` hold a line per test: its name, for a skipped one with the reason."""

    stage: str
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def line(self) -> str:
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def total(results: list[Results]) -> Results:
    return Results(
        stage="total",
        passed=sum(result.passed for result in results),
        failed=tuple(f"[{result.stage}] {name}" for result in results for name in result.failed),
        skipped=tuple(f"[{result.stage}] {name}" for result in results for name in result.skipped),
    )


def from_junit(stage: str, file: Path, exit_code: int) -> Results:
    """pytest's results. An exit code that the file does not explain counts as one failure."""
    cases = list(ElementTree.parse(file).iter("testcase")) if file.is_file() else []
    failed = [_name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [f"{_name(case)}: {_skip_reason(case)}" for case in cases if case.find("skipped") is not None]
    passed = sum(not len(case.findall("failure") + case.findall("error") + case.findall("skipped")) for case in cases)
    nothing_selected = exit_code == 5  # pytest's own code for it
    if exit_code != 0 and not failed and not nothing_selected:
        failed.append(f"{stage}: pytest ended with exit code {exit_code}")
    return Results(stage, passed, tuple(failed), tuple(skipped))


def from_tap(stage: str, text: str, exit_code: int) -> Results:
    """The results of `node --test --test-reporter=tap`."""
    failed = [line.split(" - ", 1)[-1].strip() for line in text.splitlines() if re.match(r"\s*not ok \d+", line)]
    skipped = [line.split(" - ", 1)[-1].strip() for line in text.splitlines() if re.match(r"\s*ok \d+.*# SKIP", line)]
    counted = re.search(r"^# pass (\d+)", text, re.MULTILINE)
    if exit_code != 0 and not failed:
        failed.append(f"{stage}: node ended with exit code {exit_code}")
    return Results(stage, int(counted.group(1)) if counted else 0, tuple(failed), tuple(skipped))


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}::{case.get('name', '')}".removeprefix("::")


def _skip_reason(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is None:
        return "not skipped"
    reason = " ".join((skipped.get("message") or "no reason given").split())
    return f"fails as expected: {reason}" if skipped.get("type") == "pytest.xfail" else reason
