"""Runs the parts of benchmarks.device on the device at hand, most important first, until the time is up.

Every part is a process; those that are not timed run beside each other where there are processors enough. What is found
is on disk at once. The ComfyUI is the one named by COMFYUI_PATH, else this project's own; `--pinned` names a second.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .._host import ROOT
from .parts import CURRENT, PARTS, PINNED, Part
from .record import Record, is_wrong, read
from .report import page

MINUTES = 9.0
LEAST_SECONDS = 20.0  # a part is not begun with less
PROCESSORS = 8  # with so many, parts that are not timed run beside each other
BESIDE = 6  # of them at once
THREADS_BESIDE = "3"
LINES, TABLE, ROWS = "findings.jsonl", "device.md", "device.json"


@dataclass(frozen=True)
class Day:
    """What every part is started with."""

    out: Path
    hosts: dict[str, Path | None]
    is_rehearsal: bool
    deadline: float  # on time.monotonic's clock

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


@dataclass
class Running:
    """Parts at work in one process: one, but for a rehearsal, which enters the host once for many."""

    parts: Sequence[Part]
    process: "subprocess.Popen[bytes]"
    begun: float
    ends: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the day, or, with --part, one part of it in this process."""
    options = _options(argv)
    if options.part:
        for part in [part for part in PARTS if part.name in options.part]:
            part.work(Record(options.out / LINES, part.name), options.rehearse)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LINES).unlink(missing_ok=True)
    hosts = {CURRENT: _folder(os.environ.get("COMFYUI_PATH")), PINNED: _folder(options.pinned)}
    day = Day(options.out, hosts, options.rehearse, time.monotonic() + 60 * options.minutes)
    chosen = [part for part in PARTS if not options.only or part.name in options.only]
    ended = run_day(day, chosen)
    found = read(day.out / LINES)
    print((day.out / TABLE).read_text(encoding="utf-8"))
    rows = [asdict(one.row) for one in found if one.row is not None]
    (options.json or day.out / ROWS).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    wrong = [one for one in found if one.row is not None and is_wrong(one.row)]
    return 1 if wrong or any(not text.startswith("Done") for text in ended.values()) else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "device", help="folder for what is found")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the rows (default: in --out)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"after which it ends ({MINUTES:g})")
    parser.add_argument("--pinned", metavar="FOLDER", help="a ComfyUI 0.3.75, on which the nodes are tried too")
    parser.add_argument("--only", nargs="*", choices=[part.name for part in PARTS], help="run these parts")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU: is the script itself in order")
    parser.add_argument("--part", nargs="*", choices=[part.name for part in PARTS], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _folder(named: str | None) -> Path | None:
    return Path(named).expanduser().resolve() if named else None


def run_day(day: Day, parts: Sequence[Part]) -> dict[str, str]:
    """Part -> how it ended, of those that were begun; the page is written after every part."""
    ended: dict[str, str] = {}
    beside = BESIDE if (os.cpu_count() or 1) >= PROCESSORS else 1
    for together, most in ((False, beside), (True, 1)):
        waiting = _groups([part for part in parts if part.is_timed == together], day)
        running: list[Running] = []
        while waiting or running:
            while waiting and len(running) < most and day.left > LEAST_SECONDS:
                group = waiting.pop(0)
                reason = _reason_against(group[0], day)
                if reason:
                    ended |= {part.name: reason for part in group}
                else:
                    running.append(_start(group, day))
            if not running:
                break
            time.sleep(0.2)
            for one in [one for one in running if _has_ended(one)]:
                running.remove(one)
                ended |= {part.name: _ending(one, day) for part in one.parts}
                print(f"{one.parts[0].name}: {ended[one.parts[0].name]}", file=sys.stderr, flush=True)
            (day.out / TABLE).write_text(page(_machine(), read(day.out / LINES), ended), encoding="utf-8")
    (day.out / TABLE).write_text(page(_machine(), read(day.out / LINES), ended), encoding="utf-8")
    return ended


def _groups(parts: Sequence[Part], day: Day) -> list[Sequence[Part]]:
    """What goes into one process: a part, or in a rehearsal all that need no process of their own."""
    if not day.is_rehearsal:
        return [[part] for part in parts]
    own = [[part] for part in parts if part.is_suite]
    shared = [part for part in parts if not part.is_suite and not part.is_dynamic]
    return [*own[:1], *([shared] if shared else [])]


def _reason_against(part: Part, day: Day) -> str:
    if part.host == PINNED and day.hosts[PINNED] is None:
        return "Left out: no second ComfyUI was named."
    if part.is_dynamic and not day.is_rehearsal and not _has_cuda():
        return "Left out: dynamic VRAM needs CUDA."
    return ""


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _start(parts: Sequence[Part], day: Day) -> Running:
    part = parts[0]
    env = dict(os.environ)
    host = day.hosts[part.host]
    if host is not None:
        env["COMFYUI_PATH"] = str(host)
    if not part.is_timed:
        env.setdefault("OMP_NUM_THREADS", THREADS_BESIDE)  # several run at once
    if not day.is_rehearsal and _has_cuda():
        env["LORA_LOOM_GPU"] = "1"
        if part.is_dynamic:
            env["LORA_LOOM_DYNAMIC_VRAM"] = "1"
    command = [
        sys.executable,
        "-m",
        "benchmarks.device",
        "--part",
        *[one.name for one in parts],
        "--out",
        str(day.out.resolve()),
    ]
    command += ["--rehearse"] if day.is_rehearsal else []
    with (day.out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    now = time.monotonic()
    return Running(parts, process, now, min(now + sum(one.seconds for one in parts), day.deadline))


def _has_ended(running: Running) -> bool:
    if running.process.poll() is not None:
        return True
    if time.monotonic() < running.ends:
        return False
    running.process.kill()
    running.process.wait()
    return True


def _ending(running: Running, day: Day) -> str:
    seconds = time.monotonic() - running.begun
    if time.monotonic() >= running.ends:
        return f"Stopped after {seconds:.0f} s: its time was up."
    if running.process.returncode == 0:
        return f"Done in {seconds:.0f} s."
    last = (day.out / f"{running.parts[0].name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"Ended with {running.process.returncode} after {seconds:.0f} s: {' / '.join(last[-3:])[:400]}"


def _machine() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", scratch)
        raise SystemExit(main())
