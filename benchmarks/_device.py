"""The device that the host computes on: seconds of a call, and memory that a piece of work takes, on CPU and CUDA."""

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ._host import start_host
from ._measure import measure

CPU = torch.device("cpu")
FILL = {"cuda": 0.3, "cpu": 0.2}  # seconds that the calls of one timing shall take together, by kind of device
MOST_CALLS = 200
MANY_FILLS = 5  # a first call that takes this long tells enough
GROUND = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number -> integers to add up
MEGABYTE = 2**20

Call = Callable[[], object]
Side = Callable[[], AbstractContextManager[Call]]  # while it is entered, its call is ready to be timed


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran, for the heads of tables."""

    host: str
    device: torch.device
    name: str  # of the device

    def __str__(self) -> str:
        return f"{self.host}, {self.name}, torch {torch.__version__}"


@cache
def start_machine() -> Machine:
    """Start the host on the CUDA device where there is one, else on the CPU."""
    if torch.cuda.is_available():
        os.environ.setdefault("LORA_LOOM_GPU", "1")
    folder = start_host()
    import comfy.model_management
    from lora_pack.devtools.hosts import read_host

    found = read_host(folder)
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()} on {torch.get_num_threads()} thread(s)"
    return Machine(f"ComfyUI {found.version if found else 'unknown'}", device, name)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def alternate(sides: Mapping[str, Side], device: torch.device, runs: int) -> dict[str, float]:
    """Side -> median seconds of one call, every side entered once in each run, in alternating order."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    calls, fill = 0, FILL[device.type]
    for run in range(runs):
        for name, side in list(sides.items())[:: -1 if run % 2 else 1]:
            with side() as call:
                first = _seconds(call, device, 1)  # warms up
                if not calls:
                    once = first if first > MANY_FILLS * fill else _seconds(call, device, 1)
                    calls = max(1, min(MOST_CALLS, round(fill / once)))
                found[name].append(_seconds(call, device, calls))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _seconds(call: Call, device: torch.device, calls: int) -> float:
    """Of one call, over several in a row."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000 / calls
    # One thread's own time leaves out what else runs on this machine.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(calls):
        call()
    return (clock() - begin) / calls


def elapsed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds on the wall until the work is done on the device too, and what it returned."""
    _wait(device)
    begin = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - begin, result


@dataclass(frozen=True)
class Memory:
    """MB above what there was before."""

    peak: float  # of the CUDA device's memory, or of the process's resident memory
    held: float  # in tensors, on all devices, while the result of the work is held


def memory_of(work: Callable[[], object], undo: Callable[[], object], device: torch.device) -> Memory:
    """What a piece of work takes; what it returns is held until the memory has been read, then `undo` runs."""
    gc.collect()
    _give_back_freed()
    before = tensor_bytes()
    held = 0.0

    def observed() -> object:
        nonlocal held
        kept = work()
        gc.collect()
        held = (tensor_bytes() - before) / MEGABYTE
        return kept

    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        ground = torch.cuda.memory_allocated(device)
        kept = observed()
        peak = (torch.cuda.max_memory_allocated(device) - ground) / MEGABYTE
        del kept
        undo()
    else:
        peak = measure(observed, undo).peak
    return Memory(peak, held)


def _give_back_freed() -> None:
    """Hand freed memory to the system, where the C library can: what is taken out of it again would not show."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def tensor_bytes() -> int:
    """Bytes of all tensors that Python holds, storages shared by several counted once."""
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def fingerprints(module: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Weight -> (its bytes, the sum of its bits), to find out later which weights have other values."""
    return {
        name: (weight.nbytes, int(weight.detach().view(GROUND[weight.element_size()]).sum(dtype=torch.int64)))
        for name, weight in module.named_parameters()
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
