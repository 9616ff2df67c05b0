"""Seconds and peak memory of a piece of work, and the rows that benchmarks write."""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # Linux: forget the highest resident size so far


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak: float  # MB of resident memory above what the process had before, file pages counted in


@dataclass(frozen=True)
class Row:
    case: str
    ours: float
    peer: float | None  # None where nobody else does the same
    peer_name: str
    ratio: float | None  # > 1: ours is better
    unit: str


def measure(
    work: Callable[[], object],
    undo: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Cost of one run of `work`; what it returns is held until the memory has been read, then `undo` runs.

    `clock` may be time.process_time where one thread works on a machine that others use too.
    """
    gc.collect()
    before = _reset_peak()
    start = clock()
    kept = work()
    seconds = clock() - start
    peak = _status("VmHWM") - before
    del kept
    undo()
    return Cost(seconds, peak)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The middle of several runs, for time and memory separately."""
    return Cost(statistics.median(c.seconds for c in costs), statistics.median(c.peak for c in costs))


def compare(case: str, ours: Cost, peer: Cost, peer_name: str) -> list[Row]:
    """The rows for time and memory of one case; lower is better in both."""
    return [
        Row(f"{case}, time", ours.seconds, peer.seconds, peer_name, peer.seconds / ours.seconds, "s"),
        Row(f"{case}, peak memory", ours.peak, peer.peak, peer_name, peer.peak / max(ours.peak, 0.1), "MB"),
    ]


def arguments(description: str, runs: int) -> argparse.Namespace:
    """`json`, the file for the rows; `only`, a part of the names of the cases to run; `runs` per case."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose names contain TEXT")
    parser.add_argument("--runs", type=int, default=runs, help=f"runs per case, of which the median counts ({runs})")
    return parser.parse_args()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def _reset_peak() -> float:
    CLEAR.write_text(RESET_PEAK)
    return _status("VmRSS")


def _status(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
