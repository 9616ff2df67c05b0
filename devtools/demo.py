"""The `demo` command: trains two LoRAs inside a real ComfyUI, and makes one contact sheet of what they do."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.host.client import HostClient
from demo.host.picture_graph import PICTURE_NODE
from demo.host.training_graph import Concept, trained_picture_graph, training_graph

from .demo_host import HOST_CHOICES, chosen_host, demo_server
from .environment import ensure_setup
from .failures import bad_input
from .layout import DEMO, DEMO_WORK, ROOT, VENV_PYTHON
from .programs import run_logged
from .stages import say, stage

PLAN = DEMO / "contact_sheet.json"
TRAINING = DEMO / "training.json"
PICTURES = 10  # of each concept
TRAINING_SECONDS = 3600.0  # that a training may take at most
SHEET_MAKER = ROOT / "devtools" / "contact_sheet.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=DEMO_WORK / "contact_sheet.png", help="the sheet (PNG) to write")
    parser.add_argument("--seed", type=int, help="seed of every picture (default: the one in demo/contact_sheet.json)")
    parser.add_argument("--steps", type=int, help="of each training (default: those in demo/training.json)")
    parser.add_argument("--host", choices=HOST_CHOICES, default=HOST_CHOICES[0], help="the ComfyUI to run on")


def run(arguments: argparse.Namespace) -> int:
    DEMO_WORK.mkdir(exist_ok=True)
    out = arguments.out.resolve()
    if out.suffix.lower() != ".png" or not out.parent.is_dir() or out.is_dir():
        raise bad_input(f"--out {arguments.out}: must be a .png file in a folder that exists")
    if arguments.steps is not None and arguments.steps < 1:
        raise bad_input(f"--steps {arguments.steps}: must be 1 or more")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**64:
        raise bad_input(f"--seed {arguments.seed}: must be 0 to 2^64 - 1")
    plan = json.loads(PLAN.read_text(encoding="utf-8"))
    seed = plan["seed"] if arguments.seed is None else arguments.seed
    concepts = _concepts(arguments.steps)
    with stage("setup"):
        ensure_setup()
    with demo_server("demo", chosen_host(arguments.host)) as server:
        _draw_training_sets(server.settings.base / "input")
        for concept in concepts:
            with stage(f"train {concept.name}: {concept.inputs['steps']} steps on {PICTURES} pictures"):
                _train(server.client, concepts, concept)
        with stage(f"{len(plan['columns']) * len(plan['captions'])} pictures, seed {seed}"):
            rows = _make_pictures(server.client, concepts, plan, seed)
    with stage("contact sheet"):
        _draw_sheet([column["label"] for column in plan["columns"]], rows, seed, out)
    say(f"contact sheet: {out}")
    return 0


def _planned() -> list[Mapping[str, Any]]:
    return json.loads(TRAINING.read_text(encoding="utf-8"))["concepts"]


def _concepts(steps: int | None) -> list[Concept]:
    """The concepts of demo/training.json, with another number of steps where one is given."""
    common = json.loads(TRAINING.read_text(encoding="utf-8"))["common"]
    return [
        Concept(
            name=one["name"],
            folder=one["name"],
            trigger=one["trigger"],
            inputs=one["inputs"] | ({"steps": steps} if steps else {}),
            settings=common | one["settings"],
            keep=one["keep"],
            with_text_encoder=one["with_text_encoder"],
        )
        for one in _planned()
    ]


def _draw_training_sets(folder: Path) -> None:
    """Ten captioned pictures of each concept, drawn by demo/pictures.py, which needs .venv's Pillow."""
    for one in _planned():
        shape = ["--shape", one["shape"]] if one["shape"] else []
        command = [
            VENV_PYTHON,
            DEMO / "pictures.py",
            folder / one["name"],
            "--count",
            str(PICTURES),
            "--fill",
            one["fill"],
        ]
        run_logged([*command, *shape], DEMO_WORK / "training_pictures.log")


def _train(client: HostClient, concepts: Sequence[Concept], concept: Concept) -> None:
    """Train one concept; the next graphs, which hold it too, take its result from the host's cache."""
    done = concepts[: concepts.index(concept) + 1]
    answer = client.run(training_graph(done), timeout=TRAINING_SECONDS)
    curve = DEMO_WORK / f"{concept.name}_curve.png"
    curve.write_bytes(client.picture(answer.images(f"{concept.name} curve")[0]))
    for line in answer.text(concept.name).splitlines():
        say(f"   {line}")


def _make_pictures(
    client: HostClient, concepts: Sequence[Concept], plan: Mapping[str, Any], seed: int
) -> list[dict[str, object]]:
    """One row per caption. Every picture's file comes from the host."""
    folder = DEMO_WORK / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, caption in enumerate(plan["captions"]):
        pictures = []
        for index, column in enumerate(plan["columns"]):
            used = [(concepts["AB".index(letter)], strength) for letter, strength in column["strengths"].items()]
            strengths = {concept.name: strength for concept, strength in used}
            asked = " ".join([*filter(None, (concept.trigger for concept, _ in used)), caption])
            answer = client.run(trained_picture_graph(concepts, asked, seed, strengths))
            file = folder / f"{number}_{index}.png"
            file.write_bytes(client.picture(answer.images(PICTURE_NODE)[0]))
            pictures.append(str(file))
        rows.append({"caption": caption, "pictures": pictures})
    return rows


def _draw_sheet(labels: Sequence[str], rows: Sequence[Mapping[str, object]], seed: int, out: Path) -> None:
    sheet = {"title": f"LoRA Loom: same seed ({seed}) in every picture", "columns": labels, "rows": rows}
    description = DEMO_WORK / "contact_sheet.json"
    description.write_text(json.dumps(sheet), encoding="utf-8")
    run_logged([VENV_PYTHON, SHEET_MAKER, description, out], DEMO_WORK / "contact_sheet.log")
