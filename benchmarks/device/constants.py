"""What `auto` estimates of a mid-range card (lora_core/weave/policy.py), measured on this one, for docs/benchmarks.md.

A branch of rank R at T positions of a layer [m, n] takes 2 T R (m + n) / F + P T m b / B + L seconds. F, B and L are
those that fit the measured branches best, each difference taken as a share of what was measured.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .._device import elapsed
from .._measure import Row
from .record import Record

WIDTHS, POSITIONS, RANKS = (640, 1280, 3072), (256, 4096, 32768), (8, 32, 256)
SMALL_WIDTHS, SMALL_POSITIONS, SMALL_RANKS = (64, 128), (16, 64), (4, 8)
RUNS, CALLS = 7, 10
MERGED_WIDTH, MERGED_LAYERS = 1280, 64
KINDS = {"cuda": torch.bfloat16, "cpu": torch.float32}


@dataclass(frozen=True)
class Branch:
    """One measured branch."""

    flops: float
    moved: float  # bytes
    seconds: float


def run(record: Record, device: torch.device, name: str, *, small: bool) -> None:
    """Measure, fit, and print the line for the table."""
    dtype = KINDS[device.type]
    with torch.inference_mode():
        found = [
            _branch(width, positions, rank, dtype, device)
            for width in (SMALL_WIDTHS if small else WIDTHS)
            for positions in (SMALL_POSITIONS if small else POSITIONS)
            for rank in (SMALL_RANKS if small else RANKS)
        ]
        remerge = _remerge(dtype, device, small=small)
    flops, bandwidth, launch = fit(found)
    record.row(Row("multiplications of a branch", flops, None, "", None, "per second"))
    record.row(Row("memory of a branch", bandwidth, None, "", None, "bytes per second"))
    record.row(Row("least time of a branch", launch * 1e6, None, "", None, "us"))
    record.row(Row("weights merged anew on the device", remerge, None, "", None, "s per GB"))
    off = statistics.median(abs(_predicted(one, flops, bandwidth, launch) - one.seconds) / one.seconds for one in found)
    record.row(Row("the fit is off by, in the middle", off, None, "", None, "of a branch"))
    if math.isinf(flops) or math.isinf(bandwidth):
        record.note("the sizes tried do not tell the multiplications and the memory apart: no line for the table")
        return
    figures = f"flops={flops:.2g}, bandwidth={bandwidth:.2g}, launch={launch:.2g}, remerge={remerge:.2g}"
    record.note(f'"{device.type}": DeviceCosts({figures}, measured_on="{name}"),')


def _branch(width: int, positions: int, rank: int, dtype: torch.dtype, device: torch.device) -> Branch:
    from lora_pack.lora_core.adapters import LowRank
    from lora_pack.lora_core.weave.policy import PASSES
    from lora_pack.lora_core.weave.strand import Strand
    from lora_pack.lora_core.weave.woven_layer import WovenLayer

    module = nn.Linear(width, width).to(device, dtype)
    x = torch.randn(1, positions, width, device=device, dtype=dtype)
    y = module(x)
    adapter = LowRank(torch.randn(rank, width), torch.randn(width, rank), 0.001, (width, width))
    woven = WovenLayer([Strand(adapter, 0, None)], (width, width), dtype).to(device)
    seconds = seconds_of(lambda: woven(x, y, module), device)
    return Branch(2.0 * positions * rank * 2 * width, PASSES * positions * width * dtype.itemsize, seconds)


def _remerge(dtype: torch.dtype, device: torch.device, *, small: bool) -> float:
    """Seconds per GB to write weights anew from a copy on the CPU, as a changed strength makes the host do."""
    width, layers = (64, 4) if small else (MERGED_WIDTH, MERGED_LAYERS)
    kept = [torch.randn(width, width).to(dtype) for _ in range(layers)]
    weights = [weight.to(device) for weight in kept]
    down, up = torch.randn(32, width, device=device), torch.randn(width, 32, device=device)

    def merge() -> None:
        for weight, own in zip(weights, kept, strict=True):
            weight.copy_(own.to(device, torch.float32).addmm_(up, down))

    return seconds_of(merge, device, calls=1) / (layers * width * width * dtype.itemsize / 1e9)


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = CALLS) -> float:
    """Of one call, the median of several runs of a few calls."""

    def several() -> None:
        for _ in range(calls):
            call()

    several()  # warms up
    return statistics.median(elapsed(several, device)[0] / calls for _ in range(RUNS))


def _predicted(one: Branch, flops: float, bandwidth: float, launch: float) -> float:
    return one.flops / flops + one.moved / bandwidth + launch


def fit(found: Sequence[Branch]) -> tuple[float, float, float]:
    """F, B and L of least relative squares; a term that comes out below nothing is left out of the fit."""
    rows = torch.tensor([[one.flops, one.moved, 1.0] for one in found], dtype=torch.float64)
    seconds = torch.tensor([one.seconds for one in found], dtype=torch.float64)
    weighted = rows / seconds[:, None]
    used = [0, 1, 2]
    while used:
        scale = weighted[:, used].norm(dim=0)
        answer = torch.linalg.lstsq(weighted[:, used] / scale, torch.ones(len(found), 1, dtype=torch.float64)).solution
        values = answer[:, 0] / scale
        if float(values.min()) > 0:
            break
        used.pop(int(values.argmin()))
    costs = [0.0, 0.0, 0.0]
    for place, value in zip(used, values.tolist() if used else [], strict=True):
        costs[place] = value
    flops, bandwidth = (1 / cost if cost else math.inf for cost in costs[:2])
    return flops, bandwidth, costs[2]
