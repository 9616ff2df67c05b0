"""The parts of a day on a device in their order, the most important first: how long each may take, and what it runs."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .record import Record

CURRENT, PINNED = "current", "pinned"  # which ComfyUI
STACKS = ((1, 32), (4, 32), (8, 32), (2, 32))  # in the order of what one wants to know most
RUNS = 2


@dataclass(frozen=True)
class Part:
    """A process of its own, so that nothing of one can spoil another."""

    name: str
    title: str
    work: Callable[[Record, bool], None]  # given whether it is a rehearsal
    seconds: int  # it is stopped after these
    host: str = CURRENT
    is_timed: bool = False  # runs alone
    is_dynamic: bool = False  # with the host's dynamic VRAM, where it has any
    is_suite: bool = False  # starts pytest, which needs a host of its own


def _suite(record: Record, small: bool) -> None:
    from . import suite

    suite.run(record, small=small)


def _layers(record: Record, small: bool) -> None:
    from .._device import start_machine
    from . import layers

    device = start_machine().device
    with _loras() as folder, torch.inference_mode():
        layers.run(record, device, folder, small=small)


def _models(record: Record, small: bool) -> None:
    from . import models

    with _bench(small, "SD1.5") as bench:
        models.run(record, bench)


def _compiled(record: Record, small: bool) -> None:
    from . import compiled

    if small:
        record.note("left out of a rehearsal: the first compiled call takes most of a minute")
        return
    with _bench(small, "SD1.5") as bench:
        compiled.run(record, bench)


def _trainings(record: Record, small: bool) -> None:
    from .._device import start_machine
    from . import trainings

    trainings.run_checks(record, start_machine().device, small=small)


def _training_costs(record: Record, small: bool) -> None:
    from .._device import start_machine
    from . import trainings

    trainings.run_costs(record, start_machine().device, small=small)


def _constants(record: Record, small: bool) -> None:
    from .._device import start_machine
    from . import constants

    machine = start_machine()
    constants.run(record, machine.device, machine.name, small=small)


def _costs(family: str) -> Callable[[Record, bool], None]:
    """benchmarks.apply on one family: a step, a changed strength, memory."""

    def work(record: Record, small: bool) -> None:
        from .. import apply

        with _bench(small, family) as bench, torch.inference_mode():
            for count, rank in bench.stacks:
                record.rows(apply.stack_rows(bench, count, rank))
            for part in (apply.change_rows, apply.memory_rows):
                record.rows(part(bench))
                apply.unload()
                apply.forget_files()

    return work


PARTS = (
    Part("nodes", "The tests of the nodes on this device", _suite, 240, is_suite=True),
    Part("nodes-dynamic", "The same with dynamic VRAM", _suite, 240, is_dynamic=True, is_suite=True),
    Part("nodes-pinned", "The same on ComfyUI 0.3.75", _suite, 240, host=PINNED, is_suite=True),
    Part("layers", "Layers of every kind of weight", _layers, 150),
    Part("models", "A whole model", _models, 150),
    Part("models-dynamic", "A whole model with dynamic VRAM", _models, 150, is_dynamic=True),
    Part("compiled", "torch.compile", _compiled, 150),
    Part("trainings", "Trainings", _trainings, 150),
    Part("constants", "Constants for auto", _constants, 60, is_timed=True),
    Part("training-cost", "What a step of training costs", _training_costs, 60, is_timed=True),
    Part("cost-sdxl", "What applied adapters cost on SDXL", _costs("SDXL"), 130, is_timed=True),
    Part("cost-flux", "What applied adapters cost on a model shaped as Flux", _costs("Flux"), 130, is_timed=True),
    Part("cost-sd15", "What applied adapters cost on SD1.5", _costs("SD1.5"), 90, is_timed=True),
)


@contextmanager
def _loras() -> Iterator[Path]:
    """The host's one folder of LoRA files."""
    import folder_paths

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.folder_names_and_paths["loras"] = ([folder], folder_paths.supported_pt_extensions)
        folder_paths.filename_list_cache.clear()
        yield Path(folder)


@contextmanager
def _bench(small: bool, family: str) -> Iterator["object"]:
    from .._device import start_machine
    from ..apply import Bench

    machine = start_machine()
    side = None if small or machine.device.type == "cpu" or family == "SD1.5" else 128
    with _loras() as folder:
        bench = Bench(machine, folder, 1 if small else RUNS, "", small, family=family, latent=side)
        yield replace(bench, stacks=((1, 4),) if small else STACKS)
