"""Training: ours against ComfyUI's TrainLoraNode and a plain PEFT loop on the same UNet.

"step": seconds per step, medians of the steps after the first, and the peak of memory beyond the loaded model, which
every side has in a process of its own. The host's node tells no times, so its step is what one step more takes. PEFT:
LoraConfig on the same attention layers, AdamW over its parameters, the pictures of a batch in one forward. Random
weights, float32, attention layers of rank 16 (the host's node trains every layer). "target": see _train_target.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ._host import start_host
from ._measure import Cost, Row, compare, median_cost, write_rows
from ._models import SD15
from ._train_sides import Plan, host_steps, in_own_process, our_steps, peft_steps
from ._train_target import target_rows

RANK = 16
RATE = 1e-4
TOKENS = 77
TARGET = "target"
SMALL: Mapping[str, Any] = dict(SD15) | {
    "model_channels": 64, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1], "num_heads": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model to train."""

    config: Mapping[str, Any]
    side: int  # of the latent
    steps: int  # measured
    host_batches: Sequence[int] = (1, 4)  # at which the host's node is measured; it runs batch^2 pictures


SUBJECTS = {"small UNet": Subject(SMALL, 32, 4), "SD1.5": Subject(SD15, 32, 3, host_batches=(1,))}
BATCHES = (1, 4)
SIDES = ("ours", "ours, checkpointing", "PEFT", "host, checkpointing", "host")


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--only", choices=[*SUBJECTS, TARGET], help="one of the models, or the way to a target")
    parser.add_argument("--runs", type=int, default=1, help="of every side of a step, of which the medians count (1)")
    parser.add_argument("--without-host", action="store_true", help="leave out its node, which takes most of the time")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that is forked can't use the threads of its parent
    print(f"ComfyUI: {start_host()}")
    rows: list[Row] = []
    chosen = {name: subject for name, subject in SUBJECTS.items() if options.only in (None, name)}
    if chosen:
        print("| UNet, batch | " + " | ".join(SIDES) + " |\n|---|" + "---:|" * len(SIDES))
    for name, subject in chosen.items():
        rows += step_rows(name, subject, options.runs, with_host=not options.without_host)
    if options.only in (None, TARGET):
        rows += target_rows()
    write_rows(options.json, rows)


def step_rows(name: str, subject: Subject, runs: int, *, with_host: bool) -> list[Row]:
    """One model's steps, at every batch."""
    model = model_of(subject.config)
    count = sum(parameter.numel() for parameter in model.model.parameters()) / 1e6
    rows: list[Row] = []
    plan = Plan(subject.steps, RANK, RATE)
    for batch in BATCHES:
        data = data_of(batch, subject.side, int(subject.config["context_dim"]))
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda data=data: our_steps(model, data, plan, checkpointing=False),
            "ours, checkpointing": lambda data=data: our_steps(model, data, plan, checkpointing=True),
            "PEFT": lambda data=data: peft_steps(model, data, plan),
        }
        if with_host and batch in subject.host_batches:
            sides["host, checkpointing"] = lambda data=data: host_steps(model, data, plan, checkpointing=True)
            sides["host"] = lambda data=data: host_steps(model, data, plan, checkpointing=False)
        costs = _medians(sides, runs)
        case = f"{name} ({count:.1f} M parameters), batch {batch}"
        cells = [f"{costs[side].seconds:.3f} s, {costs[side].peak:.0f} MB" if side in costs else "-" for side in SIDES]
        print(f"| {case} | " + " | ".join(cells) + " |", flush=True)
        ours = costs.pop("ours")
        rows += [row for who, cost in costs.items() for row in compare(f"{case}, step", ours, cost, who)]
    return rows


def _medians(sides: Mapping[str, Callable[[], float]], runs: int) -> dict[str, Cost]:
    """Seconds of a step and peak of every side, by turns."""
    found: dict[str, list[Cost]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, run in sides.items():
            found[side].append(Cost(*in_own_process(run)))
    return {side: median_cost(costs) for side, costs in found.items()}


def model_of(
    config: Mapping[str, Any],
    kept: torch.dtype = torch.float32,
    computed: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Any:
    """A patcher of a UNet with random weights, kept as one dtype and computing in that or another."""
    import comfy.model_patcher
    import comfy.supported_models

    family = comfy.supported_models.SDXL if config["adm_in_channels"] else comfy.supported_models.SD15

    class Bare(family):
        unet_config: Mapping[str, Any] = {}
        unet_extra_config: Mapping[str, Any] = {}

    device = device or torch.device("cpu")
    settings = Bare(dict(config))
    settings.set_inference_dtype(kept, computed)
    model = settings.get_model({}, "", device=device).eval().requires_grad_(False)
    rng = torch.Generator(device).manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        drawn = torch.randn(parameter.shape, generator=rng, device=device)
        parameter.copy_(drawn * (0.7 * fan**-0.5 if parameter.dim() > 1 else 0.1))
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def data_of(count: int, side: int, width: int, pooled: int | None = None) -> Sequence[Any]:
    """Pictures that all have captions of their own; `pooled` is the width of SDXL's vector, its sizes counted in."""
    from lora_pack.lora_core.training.dataset import TrainSample

    rng = torch.Generator().manual_seed(1)
    beside = {"pooled_output": torch.randn(1, 1280, generator=rng)} if pooled else {}
    return [
        TrainSample(
            latent=torch.randn(4, side, side, generator=rng),
            conditioning=[[torch.randn(1, TOKENS, width, generator=rng), dict(beside)]],
            caption=str(number),
            name=str(number),
            size=(side * 8, side * 8),
        )
        for number in range(count)
    ]


if __name__ == "__main__":
    main()
