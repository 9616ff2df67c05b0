"""A branch against its floor, and the total rank from which `auto` merges.

"floor": R(m+n)/(mn) of the layer's multiplications, timed as that share of the layer's time, and one pass over the
output. "crossover": the least total rank at which `auto` merges, of models with adapters on square layers of one width,
beside what a branch of that rank costs here; a merge costs nothing in a step, but every changed strength makes it anew.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ._host import start_host
from ._measure import Row, write_rows

RUNS = 5
STACKS = ((1, 32), (4, 32), (8, 32))
SHAPES: Mapping[str, tuple[tuple[int, ...], int]] = {  # name -> weight, positions
    "Linear 640": ((640, 640), 4096),
    "Linear 1280, 256 positions": ((1280, 1280), 256),
    "Linear 1280, 1024 positions": ((1280, 1280), 1024),
    "Linear 10240x1280": ((10240, 1280), 1024),
    "conv 640 3x3": ((640, 640, 3, 3), 1024),
    "conv 1280 3x3": ((1280, 1280, 3, 3), 256),
}
CROSSOVER_POSITIONS = 1024  # as the policy predicts with
WIDTHS = (320, 640, 1280, 3072)
MODEL_GB = {320: 1.7, 640: 5.1, 1280: 5.1, 3072: 24.0}  # in 16 bits, of the models that have such layers
LAYERS = {320: 60, 640: 140, 1280: 560, 3072: 400}  # of that width in such a model


def main() -> None:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs per case, of which the median counts ({RUNS})")
    options = parser.parse_args()
    rows: list[Row] = []
    start_host()
    torch.set_num_threads(1)
    with torch.inference_mode():
        print("| Layer, adapters | layer alone | branch | floor | branch / floor |\n|---|---:|---:|---:|---:|")
        for name, (shape, positions) in SHAPES.items():
            for count, rank in STACKS:
                alone, branch, floor = _against_floor(shape, positions, count, rank, options.runs)
                label = f"{name}, {count} x rank {rank}"
                print(f"| {label} | {alone:.2f} | {branch:.2f} | {floor:.2f} | {branch / floor:.2f} |", flush=True)
                rows.append(Row(f"branch, {label}", branch, floor, "its floor", floor / branch, "ms"))
        print("\n| Layers | model | total rank from which auto merges | layer alone | branch of that rank |")
        print("|---|---:|---:|---:|---:|")
        for width in WIDTHS:
            rank = crossover(width)
            alone, branch, _ = _against_floor((width, width), CROSSOVER_POSITIONS, 1, rank, options.runs)
            label = f"{LAYERS[width]} of {width} x {width}"
            print(f"| {label} | {MODEL_GB[width]} GB | {rank} | {alone:.2f} | {branch:.2f} |", flush=True)
            rows.append(Row(f"crossover, {label}, rank {rank}", branch, alone, "the layer", alone / branch, "ms"))
    write_rows(options.json, rows)


def crossover(width: int) -> int:
    """The least total rank at which `auto` merges, of a model whose adapters are all on square layers of a width."""
    from lora_pack.lora_core.weave.policy import LayerCost, decide

    rank = 1
    layer = (width, width)
    model_bytes = int(MODEL_GB[width] * 1e9)
    while decide([LayerCost(layer, rank, 2)] * LAYERS[width], model_bytes, is_quantised=False).is_branch:
        rank += 1
    return rank


def _against_floor(
    shape: tuple[int, ...], positions: int, count: int, rank: int, runs: int
) -> tuple[float, float, float]:
    """Milliseconds of the layer, of its branch, and the least that the branch could take."""
    from lora_pack.lora_core.adapters import LowRank
    from lora_pack.lora_core.weave.strand import Strand
    from lora_pack.lora_core.weave.woven_layer import WovenLayer

    out, inputs = shape[0], torch.Size(shape[1:]).numel()
    module, x = _layer(shape, positions)
    adapters = [LowRank(torch.randn(rank, inputs), torch.randn(out, rank), 0.001, shape) for _ in range(count)]
    woven = WovenLayer([Strand(one, number, None) for number, one in enumerate(adapters)], shape, torch.float32)
    y = module(x)
    other = y.clone()
    found = _medians(
        {"layer": lambda: module(x), "branch": lambda: woven(x, y, module), "pass": lambda: other.add_(1.0)}, runs
    )
    share = count * rank * (out + inputs) / (out * inputs)
    return found["layer"], found["branch"], share * found["layer"] + found["pass"]


def _layer(shape: tuple[int, ...], positions: int) -> tuple[nn.Module, torch.Tensor]:
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0]), torch.randn(1, positions, shape[1])
    side = int(positions**0.5)
    return nn.Conv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2), torch.randn(1, shape[1], side, side)


def _medians(calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Milliseconds of each call, in turns; the time of the one thread, which leaves out what else runs."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for run in range(runs):
        for name, call in list(calls.items())[:: -1 if run % 2 else 1]:
            begin = time.thread_time()
            call()
            seconds[name].append(time.thread_time() - begin)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
