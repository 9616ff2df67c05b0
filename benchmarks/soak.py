"""Queues prompts at random on a real server with a small card, and looks for anything that is not as it was.

Apply, stack, merge, save, train, sweep, interrupt, free memory, two models in one graph. After every 50 prompts the
picture of the base model is compared to the bit; the same graph gives the same picture whenever it comes again; the
memory of the server is noted.
"""

import argparse
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ._host import ROOT, find_host

ROUND = 50  # prompts between two looks at the base model
SECONDS = 120.0  # that a prompt may take; a host without its worker never ends one
CARD_BYTES = 3_000_000  # for weights: less than the demo's model and its text encoder together
GROWTH_MB = 150.0  # of the server, from the end of the first quarter to the end of the run
STRENGTHS = (-0.5, 0.5, 1.0)
MODES = ("auto", "branch", "merge")
Graph = dict[str, dict[str, Any]]


@dataclass
class Soak:
    """One run against one server."""

    client: Any
    files: list[str]
    dice: random.Random
    seconds: float
    pictures: dict[str, bytes] = field(default_factory=dict)  # graph -> its picture
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)  # prompts so far, MB of the server
    prompts: int = 0
    only: tuple[str, ...] = ()  # kinds of prompts; none: all

    def node(self, class_type: str, **inputs: Any) -> dict[str, Any]:
        """A node with the defaults of its required inputs, and these."""
        required = self.client.object_info(class_type)[class_type]["input"].get("required", {})
        found: dict[str, Any] = {}
        for name, (kind, *options) in required.items():
            extra = options[0] if options else {}
            choices = kind if isinstance(kind, list) else extra.get("options", [])
            if "default" in extra or choices:
                found[name] = extra.get("default", choices[0] if choices else None)
        return {"class_type": class_type, "inputs": {**found, **inputs}}

    def base(self) -> Graph:
        """A picture of the demo's model in four steps."""
        from lora_pack.demo.host.picture_graph import picture_graph

        graph = picture_graph("red star on white", 11)
        graph["sampler"]["inputs"]["steps"] = 4
        return graph

    def applied(self, graph: Graph, mode: str) -> Graph:
        """The graph with one to three files, at strengths of a few."""
        from lora_pack.demo.host.picture_graph import rewired

        before = "model"
        for number in range(self.dice.randint(1, 3)):
            strength, name = self.dice.choice(STRENGTHS), f"lora{number}"
            graph = rewired(graph, before, name)
            graph[name] = self.node(
                "LoraLoomApply", model=[before, 0], clip=[before, 1], lora_name=self.dice.choice(self.files),
                strength_model=strength, strength_clip=strength, mode=mode, on_unmatched="report",
            )  # fmt: skip
            before = name
        return graph

    def apply(self) -> Graph:
        return self.applied(self.base(), self.dice.choice(MODES))

    def stack(self) -> Graph:
        from lora_pack.demo.host.picture_graph import rewired

        rows = [f"<lora:{file}:{self.dice.choice(STRENGTHS)}>" for file in self.files[: self.dice.randint(1, 3)]]
        graph = rewired(self.base(), "model", "stacked")
        graph["rows"] = self.node("LoraLoomStack", rows="\n".join(rows))
        graph["stacked"] = self.node(
            "LoraLoomApplyStack", model=["model", 0], clip=["model", 1], lora_stack=["rows", 0],
            on_unmatched="report", mode=self.dice.choice(MODES),
        )  # fmt: skip
        return graph

    def scheduled(self) -> Graph:
        graph = self.applied(self.base(), "branch")
        graph["curve"] = self.node("LoraLoomSchedule", schedule=self.dice.choice(("0:0, 1:1", "0:1, 0.5:0")))
        graph["lora0"]["inputs"]["schedule"] = ["curve", 0]
        return graph

    def sweep(self) -> Graph:
        graph = self.base()
        graph["sweep"] = self.node(
            "LoraLoomSweep", model=["model", 0], latent=["latent", 0], lora_name=self.files[0],
            strengths=self.dice.choice(("0, 1", "-0.5, 0.5")),
        )  # fmt: skip
        graph["sampler"]["inputs"] |= {"model": ["sweep", 0], "latent_image": ["sweep", 1]}
        graph["sampler"]["inputs"]["sampler_name"] = self.dice.choice(("euler", "lcm"))
        return graph

    def two_models(self) -> Graph:
        """The LoRA on one model, mixed with a second one by the host's own merge."""
        graph = self.applied(self.base(), "branch")
        last = graph["sampler"]["inputs"]["model"]
        graph["second"] = {"class_type": "LoraLoomDemoModel", "inputs": {}}
        graph["mixed"] = self.node("ModelMergeSimple", model1=last, model2=["second", 0], ratio=0.5)
        graph["sampler"]["inputs"]["model"] = ["mixed", 0]
        return graph

    def save(self) -> Graph:
        graph = self.applied(self.base(), self.dice.choice(MODES))
        graph["saved"] = self.node("ModelSave", model=graph["sampler"]["inputs"]["model"], filename_prefix="soak/model")
        return graph

    def merge(self) -> Graph:
        graph = self.base()
        graph["rows"] = self.node("LoraLoomStack", rows="\n".join(f"<lora:{file}:0.5>" for file in self.files[:2]))
        graph["merged"] = self.node(
            "LoraLoomMerge", method="concat", lora_stack=["rows", 0], model=["model", 0], clip=["model", 1]
        )
        graph["on"] = self.node(
            "LoraLoomApply", model=["model", 0], lora_name=self.files[0], lora=["merged", 0], mode="branch",
            on_unmatched="report",
        )  # fmt: skip
        graph["sampler"]["inputs"]["model"] = ["on", 0]
        return graph

    def train(self) -> Graph:
        graph = self.base()
        graph["pictures"] = self.node(
            "LoraLoomDatasetFolder", folder="soak", vae=["model", 2], clip=["model", 1], resolution=64, step=64,
        )  # fmt: skip
        graph["trained"] = self.node(
            "LoraLoomTrain", model=["model", 0], dataset=["pictures", 0], steps=5, rank=4, batch=1,
            seed=self.dice.randrange(10**6), filename=f"soak/{self.dice.randrange(10**9)}", preview_every=0,
        )  # fmt: skip
        graph["on"] = self.node(
            "LoraLoomApply", model=["model", 0], lora_name=self.files[0], lora=["trained", 0], on_unmatched="report",
        )  # fmt: skip
        graph["sampler"]["inputs"]["model"] = ["on", 0]
        return graph

    def run(self, minutes: float, most: int) -> None:
        """Until the time or the number of prompts is up."""
        makers: dict[str, tuple[Callable[[], Graph], int]] = {
            "apply": (self.apply, 8), "stack": (self.stack, 4), "scheduled": (self.scheduled, 2),
            "sweep": (self.sweep, 2), "two models": (self.two_models, 2), "save": (self.save, 1),
            "merge": (self.merge, 2), "train": (self.train, 2),
            "base": (self.base, 0 if not self.only else 1),
        }  # fmt: skip
        makers = {kind: maker for kind, maker in makers.items() if not self.only or kind in self.only}
        wanted = self.picture("base", self.base())
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end and self.prompts < most:
            kind = self.dice.choices(list(makers), [weight for _, weight in makers.values()])[0]
            self.one(kind, makers[kind][0]())
            if self.dice.random() < 0.1:
                self.client.post("/free", {"unload_models": True, "free_memory": self.dice.random() < 0.5})
                self.kinds["free"] += 1
            if self.prompts % ROUND == 0 and self.picture("base", self.base()) != wanted:
                self.faults.append(f"prompt {self.prompts}: the picture of the base model is another one")

    def one(self, kind: str, graph: Graph) -> None:
        """A prompt, one in twelve interrupted; its picture is that of the same graph before."""
        if self.dice.random() < 1 / 12:
            self.interrupted(graph)
            return
        key = json.dumps(graph, sort_keys=True)
        found = self.picture(kind, graph)
        if found is not None and kind != "train" and self.pictures.setdefault(key, found) != found:
            pair = [np.frombuffer(one, np.uint8).astype(int) for one in (self.pictures[key], found)]
            off = np.abs(pair[0] - pair[1])
            what = f"{np.count_nonzero(off)} numbers differ from the first time, by {off.max()} of 255 at most"
            self.faults.append(f"prompt {self.prompts}: {kind}: {what}: {key[:2000]}")

    def interrupted(self, graph: Graph) -> None:
        """However it ends, the next prompt must run."""
        self.fresh(graph)
        prompt = self.client.queue(graph)
        time.sleep(self.dice.random() * self.seconds)
        self.client.interrupt()
        self.prompts += 1
        self.kinds["interrupted"] += 1
        try:
            self.client.wait(prompt, SECONDS)
        except Exception as error:  # the host says that it was interrupted, or what else was wrong
            if "interrupted" not in str(error).lower():
                self.faults.append(f"prompt {self.prompts}: interrupted: {error}")

    def fresh(self, graph: Graph) -> None:
        """Have the host sample anew; denoise above 0.9999 is 1 to it."""
        graph["sampler"]["inputs"]["denoise"] = 1.0 - (self.prompts % 900 + 1) * 1e-7

    def picture(self, kind: str, graph: Graph) -> bytes | None:
        """The numbers of a graph's picture; None, and a fault, if there is none."""
        self.prompts += 1
        self.kinds[kind] += 1
        self.fresh(graph)
        started = time.monotonic()
        try:
            answer = self.client.run(graph, SECONDS)
            reference = answer.images("picture")[0]
            content = self.client.picture(reference)
        except Exception as error:  # each is a fault, and the next prompt is tried
            self.faults.append(f"prompt {self.prompts}: {kind}: {type(error).__name__}: {str(error)[:500]}")
            return None
        self.seconds = 0.9 * self.seconds + 0.1 * (time.monotonic() - started)
        return np.asarray(Image.open(io.BytesIO(content))).tobytes()


def _files(folder: Path) -> None:
    """Two pictures with captions to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("red star on white", encoding="utf-8")


def _megabytes(process: int) -> float:
    """Resident memory, where the system tells."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    """Run, and say what was found; exit status 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--prompts", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), help="kinds of prompts, such as apply stack train")
    options = parser.parse_args()
    host = find_host()
    from lora_pack.demo.host.base_directory import make_base_directory
    from lora_pack.demo.host.server import ServerSettings, running_server

    demo = ROOT / "demo"
    with tempfile.TemporaryDirectory(prefix="lora-loom-soak-") as made:
        base = Path(made) / "base"
        packs = {
            "lora_loom": ROOT, "lora_loom_demo": demo / "custom_nodes" / "lora_loom_demo",
            "small_card": ROOT / "benchmarks" / "soak_card",
        }  # fmt: skip
        loras = sorted((demo / "loras").glob("*.safetensors"))
        make_base_directory(base, packs, loras)
        _files(base / "input" / "soak")
        settings = ServerSettings(
            host=host, python=Path(sys.executable), base=base, log=Path(made) / "server.log",
            environment={
                "LORA_LOOM_DEMO_DIR": str(demo), "OMP_NUM_THREADS": "1", "LORA_LOOM_CARD_BYTES": str(CARD_BYTES),
            },
        )  # fmt: skip
        with running_server(settings) as server:
            soak = Soak(
                server.client, [file.name for file in loras], random.Random(options.seed), 1.0, only=tuple(options.only)
            )
            started = time.monotonic()
            part = options.minutes / 8
            for _ in range(8):
                soak.run(part, options.prompts)
                soak.memory.append((soak.prompts, _megabytes(server.process.pid)))
            seconds = time.monotonic() - started
            log = server.log_text()
    grown = soak.memory[-1][1] - soak.memory[1][1]
    if grown > GROWTH_MB:
        soak.faults.append(f"the server grew by {grown:.0f} MB")
    for sign in ("letting go of a model did not end as it should", "Exception in thread"):
        if sign in log:
            soak.faults.append(f"the log has an error: {log[log.find(sign) - 200 :][:1500]}")
    print(f"host: {host.name}, {soak.prompts} prompts in {seconds:.0f} s, {len(soak.faults)} faults")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(soak.kinds.items())))
    print("partly loaded:", log.count("loaded partially"), "memory:", [f"{n}: {mb:.0f} MB" for n, mb in soak.memory])
    for fault in soak.faults[:20]:
        print("FAULT", fault)
    sys.exit(bool(soak.faults))


if __name__ == "__main__":
    main()
