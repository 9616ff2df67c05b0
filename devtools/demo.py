"""The `demo` command: one contact sheet of what LoRAs do to the demo model, made through a real ComfyUI."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.host.client import HostClient
from demo.host.picture_graph import PICTURE_NODE, LoraUse, picture_graph, report_node

from .demo_host import HOST_CHOICES, chosen_host, demo_loras, demo_server
from .environment import ensure_setup
from .failures import CommandFailed, bad_input
from .layout import DEMO, DEMO_WORK, ROOT, VENV_PYTHON, shown
from .programs import run_logged
from .stages import say, stage

PLAN = DEMO / "contact_sheet.json"
SHEET_MAKER = ROOT / "devtools" / "contact_sheet.py"


@dataclass(frozen=True)
class Column:
    label: str
    loras: tuple[LoraUse, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=DEMO_WORK / "contact_sheet.png", help="the sheet (PNG) to write")
    parser.add_argument("--seed", type=int, help="seed of every picture (default: the one in demo/contact_sheet.json)")
    parser.add_argument("--host", choices=HOST_CHOICES, default=HOST_CHOICES[0], help="the ComfyUI to run on")


def run(arguments: argparse.Namespace) -> int:
    DEMO_WORK.mkdir(exist_ok=True)
    out = arguments.out.resolve()
    if out.suffix.lower() != ".png" or not out.parent.is_dir() or out.is_dir():
        raise bad_input(f"--out {arguments.out}: must be a .png file in a folder that exists")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**64:
        raise bad_input(f"--seed {arguments.seed}: must be 0 to 2^64 - 1")
    plan = json.loads(PLAN.read_text(encoding="utf-8"))
    seed = plan["seed"] if arguments.seed is None else arguments.seed
    columns = _columns(plan["columns"])
    with stage("setup"):
        ensure_setup()
    with demo_server("demo", chosen_host(arguments.host)) as server:
        with stage(f"{len(columns) * len(plan['captions'])} pictures, seed {seed}"):
            rows = _make_pictures(server.client, columns, plan["captions"], seed)
    with stage("contact sheet"):
        _draw_sheet([column.label for column in columns], rows, seed, out)
    say(f"contact sheet: {out}")
    return 0


def _columns(planned: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Column]:
    """A and B of the plan stand for the demo's first two LoRA files."""
    files = demo_loras()
    if len(files) < 2:
        raise CommandFailed(f"{shown(DEMO / 'loras')} holds {len(files)} LoRA files, the demo needs two")
    letters = dict(zip("AB", files, strict=False))
    names = {letter: file.stem.removeprefix("demo_").replace("_", " ") for letter, file in letters.items()}
    return [
        Column(
            str(column["label"]).format(**names),
            tuple(LoraUse(letters[letter].name, s, s) for letter, s in column["strengths"].items()),
        )
        for column in planned
    ]


def _make_pictures(
    client: HostClient, columns: Sequence[Column], captions: Sequence[str], seed: int
) -> list[dict[str, object]]:
    """One row per caption. Every picture's file comes from the host; each LoRA's report is shown once."""
    folder = DEMO_WORK / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    reports: dict[str, str] = {}
    for number, caption in enumerate(captions):
        pictures = []
        for index, column in enumerate(columns):
            say(f"   picture {number * len(columns) + index + 1} of {len(captions) * len(columns)}: "
                f"{caption}, {column.label}")  # fmt: skip
            answer = client.run(picture_graph(caption, seed, column.loras))
            file = folder / f"{number}_{index}.png"
            file.write_bytes(client.picture(answer.images(PICTURE_NODE)[0]))
            pictures.append(str(file))
            for place, lora in enumerate(column.loras):
                reports.setdefault(lora.file, answer.text(report_node(place)))
        rows.append({"caption": caption, "pictures": pictures})
    for file_name, report in reports.items():
        say(f"   {(report.splitlines() or [f'{file_name}: no report'])[0]}")
    return rows


def _draw_sheet(labels: Sequence[str], rows: Sequence[Mapping[str, object]], seed: int, out: Path) -> None:
    sheet = {"title": f"LoRA Loom: same seed ({seed}) in every picture", "columns": labels, "rows": rows}
    description = DEMO_WORK / "contact_sheet.json"
    description.write_text(json.dumps(sheet), encoding="utf-8")
    run_logged([VENV_PYTHON, SHEET_MAKER, description, out], DEMO_WORK / "contact_sheet.log")
