"""`benchmarks.device` from one end to the other, with tiny sizes, and what is left of it when its time is up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lora_pack.benchmarks._measure import Row
from lora_pack.benchmarks.device.parts import PARTS
from lora_pack.benchmarks.device.record import Record, is_wrong, read
from lora_pack.benchmarks.device.report import page
from lora_pack.devtools.hosts import Host

from ..conftest import ROOT

SAME_CODE = {"nodes-pinned", "cost-sdxl", "cost-sd15"}  # as parts that are rehearsed, on another host or model


def _rehearse(host: Host, out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "COMFYUI_PATH": str(host.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.device", "--rehearse", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.once
def test_a_rehearsal_runs_every_part_and_finds_nothing_wrong(host: Host, tmp_path: Path) -> None:
    rehearsed = {part.name for part in PARTS if not part.is_dynamic} - SAME_CODE
    done = _rehearse(host, tmp_path, "--only", *rehearsed)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(tmp_path / "findings.jsonl")
    assert {one.part for one in found} == rehearsed
    rows = json.loads((tmp_path / "device.json").read_text())
    assert rows and set(rows[0]) == {"case", "ours", "peer", "peer_name", "ratio", "unit"}
    text = (tmp_path / "device.md").read_text()
    assert "0 of them wrong" in text and "Error" not in text


def test_what_was_found_before_the_time_was_up_is_kept_and_the_rest_named(host: Host, tmp_path: Path) -> None:
    done = _rehearse(host, tmp_path, "--minutes", "0.36", "--only", "constants", "cost-flux")
    assert done.returncode == 1
    text = (tmp_path / "device.md").read_text()
    assert "its time was up" in text and "Not reached." in text


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    record = Record(tmp_path / "lines", "layers")
    record.check("a", 0.5, 1.0, "share")
    record.check("b", float("nan"), 1.0, "share")
    record.note("said")
    with (tmp_path / "lines").open("a") as file:
        file.write('{"part": "layers", "ro')
    found = read(tmp_path / "lines")
    assert [one.row and is_wrong(one.row) for one in found] == [False, True, None]
    text = page("a card", found, {"layers": "Done in 1 s."})
    assert text.startswith("# a card") and "wrong: layers: b" in text and "- said" in text


def test_a_check_is_right_up_to_its_limit(tmp_path: Path) -> None:
    record = Record(tmp_path / "lines", "layers")
    for found in (0.0, 1e-9, 2.0, 2.1):
        record.check("x", found, 2.0, "share")
    record.check("none allowed", 0, 0, "files")
    record.row(Row("measured", 3.0, 1.0, "peer", 0.3, "s"))
    rows = [one.row for one in read(tmp_path / "lines")]
    assert [is_wrong(row) for row in rows if row] == [False, False, False, True, False, False]
