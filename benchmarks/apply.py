"""Applied adapters: what a changed strength and a step cost, how exact the change is, and what memory it takes.

"change": a strength is changed on SD1.5's UNet, from the node to the end of loading. "step": one call of the UNet.
"layer": one call of one layer. "error": the change of a layer's output at weights of few bits, against float64.
"memory": what a model with adapters takes beyond the model. Each of our modes is measured against each peer that this
host has. "diffusers": one call of diffusers' own UNet with PEFT's adapters. A CUDA device is used where there is one.
Weights and adapters are random: no image is judged.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from . import _diffusers_unets
from ._apply_models import (
    LAYER,
    SDXL_NAME,
    Factors,
    LayerShape,
    build_unet,
    carried,
    carry_layer,
    host_dtypes,
    random_factors,
    stored_layer,
    transformer_layers,
    unet_call,
    write_file,
)
from ._apply_sides import (
    HOOKS,
    MERGED,
    PEFT,
    PLAIN,
    PLAIN_UNET,
    STRENGTH,
    Loader,
    OwnLoader,
    chain,
    forget_files,
    load,
    loaders,
    own_modes,
    own_name,
    peft_layers,
    unload,
    with_hooks,
    with_loader,
    with_peft,
)
from ._device import CPU, MEGABYTE, Machine, Memory, Side, alternate, elapsed, fingerprints, memory_of, start_machine
from ._measure import Row, write_rows

RUNS = 3
CHANGED = 0.6  # the strength after the change
RANK = 32
STACKS = ((1, 32), (2, 32), (4, 32), (8, 32), (8, 8), (1, 64))  # adapters, rank of each
SAME_TOTAL = ((8, 8), (1, 64))
CHANGED_COUNTS = (1, 4)  # adapters of which the last one's strength changes
HELD_COUNTS = (1, 8)
LAYERS = (  # at a latent of 64 x 64 (SD1.5) and 128 x 128 (SDXL)
    LayerShape("SD1.5 to_q 320", (320, 320), 4096),
    LayerShape("SD1.5 ff 2560x320", (2560, 320), 4096),
    LayerShape("SD1.5 to_q 1280", (1280, 1280), 256),
    LayerShape("SD1.5 to_k 320x768", (320, 768), 77),
    LayerShape("SD1.5 conv 320 3x3", (320, 320, 3, 3), 4096),
    LayerShape("SD1.5 conv 1280 3x3", (1280, 1280, 3, 3), 256),
    LayerShape("SDXL to_q 640", (640, 640), 4096),
    LayerShape("SDXL to_q 1280", (1280, 1280), 1024),
    LayerShape("SDXL ff 10240x1280", (10240, 1280), 1024),
    LayerShape("SDXL conv 640 3x3", (640, 640, 3, 3), 4096),
)
STORAGES = ("bf16", "fp8_e4m3", "int8")
CHECKED = (
    LayerShape("Linear 1280", (1280, 1280), 256),
    LayerShape("Linear 10240x1280", (10240, 1280), 64),
    LayerShape("conv 320 3x3", (320, 320, 3, 3), 256),
)
CHECKED_RANK = 16
CHECKED_SIZE = 0.01  # norm of the delta over that of the weight
COMPUTED = {"fp32": torch.float32, "bf16": torch.bfloat16}
PATH = f"diffusion_model.{LAYER}"


@dataclass(frozen=True)
class Bench:
    """What every part is given."""

    machine: Machine
    folder: Path  # the host's one folder of LoRA files
    runs: int
    only: str
    small: bool
    family: str = "SD1.5"  # of the UNet
    latent: int | None = None  # side of the UNet's latent, where a run asks for one
    stacks: Sequence[tuple[int, int]] = STACKS

    @property
    def device(self) -> torch.device:
        """The one that the host computes on."""
        return self.machine.device

    @property
    def is_dynamic(self) -> bool:
        """Whether the host streams the UNet's weights."""
        return bool(getattr(self.unet, "is_dynamic", bool)())

    @property
    def batch(self) -> int:
        """Pictures in one call of the model: with and without the prompt, where that costs little."""
        return 1 if self.device.type == "cpu" else 2

    @property
    def side(self) -> int:
        """Of the latent: as the trainers' 512 pixels, or less where a call would take too long."""
        return self.latent or (16 if self.small or self.device.type == "cpu" else 64)

    @cached_property
    def unet(self) -> Any:
        """The family's, built once."""
        return build_unet(self.device, small=self.small, family=self.family)

    @property
    def unet_name(self) -> str:
        """For the names of cases."""
        return f"tiny {self.family} UNet" if self.small else f"{self.family} UNet"

    @property
    def dtype(self) -> torch.dtype:
        """In which the host's model computes."""
        kept, cast = host_dtypes(self.device, self.family)
        return cast or kept

    def files(self, count: int, rank: int) -> tuple[list[str], list[dict[str, Factors]]]:
        """Names and numbers of `count` files for the UNet."""
        return self.write(transformer_layers(self.unet.model), count, rank, "unet")

    def write(
        self, layers: Mapping[str, Sequence[int]], count: int, rank: int, title: str, size: float = 0.1
    ) -> tuple[list[str], list[dict[str, Factors]]]:
        """Names and numbers of `count` random files for layers, by their paths in the model."""
        numbers = [
            {
                path: random_factors(shape, rank, seed=1000 * file + place, size=size)
                for place, (path, shape) in enumerate(layers.items())
            }
            for file in range(count)
        ]
        names = [
            write_file(one, self.folder / f"{title}_{rank}_{file}.safetensors") for file, one in enumerate(numbers)
        ]
        return names, numbers

    def wanted(self, case: str) -> bool:
        """Whether --only lets a case run."""
        return self.only in case


def main() -> None:
    """Run all cases; write their rows and, where it is asked for, the page."""
    options = _options()
    machine = start_machine()
    print(f"on: {machine}; our modes: {', '.join(own_modes(with_auto=True))}", flush=True)
    import folder_paths

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():  # in which the host runs its nodes
        folder_paths.folder_names_and_paths["loras"] = ([folder], folder_paths.supported_pt_extensions)
        bench = Bench(machine, Path(folder), options.runs, options.only, options.small, latent=options.latent)
        parts = [
            (part, bench) for part in (error_rows, layer_rows, change_rows, step_rows, memory_rows, diffusers_rows)
        ]
        parts += [(part, replace(bench, family=SDXL_NAME)) for part in (step_rows, diffusers_rows)]
        for part, given in parts:
            rows += part(given)
            unload()
            forget_files()
    write_rows(options.json, rows)
    if options.table:
        options.table.write_text(page(rows, machine), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose names contain TEXT")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs per case, of which the median counts ({RUNS})")
    parser.add_argument("--small", action="store_true", help="tiny models, for work on this benchmark")
    parser.add_argument("--latent", type=int, metavar="SIDE", help="of the UNets' latent (16 on a CPU, else 64)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="file for the rows as a page in Markdown")
    return parser.parse_args()


def change_rows(bench: Bench) -> list[Row]:
    """The last of several adapters gets another strength: seconds until the model is ready, and weights rewritten."""
    rows: list[Row] = []
    for count in CHANGED_COUNTS:
        case = f"change, {bench.unet_name}, {count} x rank {RANK}"
        if not bench.wanted(case):
            continue
        names, _ = bench.files(count, RANK)
        sides = loaders(count, with_auto=True)
        found: dict[str, list[_Change]] = {name: [] for name in sides}
        for run in range(bench.runs):
            for name, loader in list(sides.items())[:: -1 if run % 2 else 1]:
                found[name].append(_change(bench, loader, names))
        medians = {
            name: _Change(*(statistics.median(values) for values in zip(*map(_Change.numbers, changes), strict=True)))
            for name, changes in found.items()
        }
        rows += _rows(f"{case}, until loaded", {name: one.seconds for name, one in medians.items()}, "s")
        rows += _rows(f"{case}, the node alone", {name: one.node * 1000 for name, one in medians.items()}, "ms")
        rows += _rows(f"{case}, weights rewritten", {name: one.written for name, one in medians.items()}, "MB")
    return rows


@dataclass(frozen=True)
class _Change:
    seconds: float  # until the model is loaded, with the node
    node: float  # of these, the node's
    written: float  # MB of weights that have other values afterwards

    def numbers(self) -> tuple[float, float, float]:
        return self.seconds, self.node, self.written


def _change(bench: Bench, loader: Loader, names: Sequence[str]) -> _Change:
    before = chain(loader, bench.unet, names[:-1])  # whose nodes the host does not run again
    held = load(chain(_Last(loader, len(names) - 1), before, names[-1:]))
    weights = fingerprints(held.model)
    change = _Last(loader, len(names) - 1)
    node, patched = elapsed(lambda: chain(change, before, names[-1:], CHANGED), bench.device)
    loading, _ = elapsed(lambda: load(patched), bench.device)
    after = fingerprints(patched.model)
    written = sum(size for name, (size, ground) in weights.items() if after[name][1] != ground)
    return _Change(node + loading, node, written / MEGABYTE)


@dataclass(frozen=True)
class _Last:
    """A loader at the end of a chain."""

    loader: Loader
    place: int

    def apply(self, model: Any, place: int, name: str, strength: float) -> Any:
        return self.loader.apply(model, self.place + place, name, strength)


def step_rows(bench: Bench) -> list[Row]:
    """One call of the UNet behind chains of nodes."""
    rows = [row for count, rank in bench.stacks for row in stack_rows(bench, count, rank)]
    case = f"step, {bench.unet_name}, latent {bench.side}, batch {bench.batch}, same total rank"
    if bench.wanted(case):
        many, one = (f"{count} x rank {rank}" for count, rank in SAME_TOTAL)
        seconds = _same_total_seconds(bench)
        print(f"{case}: {seconds} s", flush=True)
        rows.append(Row(f"{case}, {many}", seconds[many], seconds[one], one, seconds[one] / seconds[many], "s"))
    return rows


def stack_rows(bench: Bench, count: int, rank: int) -> list[Row]:
    """One call of the UNet behind one chain of nodes."""
    case = f"step, {bench.unet_name}, latent {bench.side}, batch {bench.batch}, {count} x rank {rank}"
    return _rows(case, _step_seconds(bench, count, rank), "s") if bench.wanted(case) else []


def _same_total_seconds(bench: Bench) -> dict[str, float]:
    """Many adapters and one of their total rank, in turns."""
    call = unet_call(bench.unet.model, bench.side, bench.batch, bench.device)
    sides: dict[str, Side] = {}
    for count, rank in SAME_TOTAL:
        names, _ = bench.files(count, rank)
        sides[f"{count} x rank {rank}"] = lambda names=names: with_loader(OwnLoader("branch"), bench.unet, names, call)
    return alternate(sides, bench.device, bench.runs + 2)


def _step_seconds(bench: Bench, count: int, rank: int) -> dict[str, float]:
    names, numbers = bench.files(count, rank)
    call = unet_call(bench.unet.model, bench.side, bench.batch, bench.device)
    sides: dict[str, Side] = {PLAIN_UNET: lambda: with_hooks(bench.unet, [], call)}
    for name, loader in loaders(count).items():
        if name not in (MERGED, own_name("merge")):  # cost what the UNet alone costs
            sides[name] = lambda loader=loader: with_loader(loader, bench.unet, names, call)
    sides[HOOKS] = lambda: with_hooks(bench.unet, numbers, call)
    layers = {path: bench.unet.model.get_submodule(path) for path in numbers[0]}
    wrapped = peft_layers(layers, [rank] * count, bench.dtype, bench.device)
    sides[PEFT] = lambda: with_peft(bench.unet, wrapped, call)
    return alternate(sides, bench.device, bench.runs)


def diffusers_rows(bench: Bench) -> list[Row]:
    """One call of diffusers' UNet of the same shapes, alone and with PEFT's adapters: full size only."""
    rows: list[Row] = []
    title = f"diffusers, {bench.family} UNet, latent {bench.side}, batch {bench.batch}"
    stacks = [(count, rank) for count, rank in STACKS if bench.wanted(f"{title}, {count} x rank {rank}")]
    if bench.small or not stacks:
        return rows
    unet = _diffusers_unets.build(bench.family, bench.device)
    call = _diffusers_unets.call_of(unet, bench.side, bench.batch, bench.device)
    for count, rank in stacks:
        case = f"{title}, {count} x rank {rank}"
        sides: dict[str, Side] = {
            name: lambda ranks=ranks: _diffusers_unets.with_adapters(unet, ranks, call)
            for name, ranks in (
                (_diffusers_unets.PLAIN_DIFFUSERS, []),
                (_diffusers_unets.PEFT_DIFFUSERS, [rank] * count),
            )
        }
        seconds = alternate(sides, bench.device, bench.runs)
        print(f"{case}: {seconds} s", flush=True)
        alone, peft = (seconds[name] for name in sides)
        rows.append(Row(f"{case}, PEFT", peft, alone, _diffusers_unets.PLAIN_DIFFUSERS, alone / peft, "s"))
    return rows


def layer_rows(bench: Bench) -> list[Row]:
    """One call of one layer."""
    import comfy.ops

    rows: list[Row] = []
    for shape in LAYERS:
        cases = [(count, rank, f"layer, {shape.name}, {count} x rank {rank}") for count, rank in bench.stacks]
        cases = [case for case in cases if bench.wanted(case[2])]
        if not cases:
            continue
        shape = shape.smaller() if bench.small else shape
        dtype = bench.dtype
        model = carry_layer(shape.build(comfy.ops.disable_weight_init, dtype), dtype, dtype, bench.device)
        given = shape.input(bench.batch, dtype, bench.device)
        for count, rank, case in cases:
            rows += _rows(case, _layer_milliseconds(bench, shape, model, given, (count, rank)), "ms")
    return rows


def _layer_milliseconds(
    bench: Bench, shape: LayerShape, model: Any, given: torch.Tensor, stack: tuple[int, int]
) -> dict[str, float]:
    count, rank = stack
    names, numbers = bench.write({PATH: shape.weight}, count, rank, "layer")
    layer = carried(model)
    call = lambda: layer(given)  # noqa: E731
    sides: dict[str, Side] = {
        name: lambda loader=loader: with_loader(loader, model, names, call)
        for name, loader in loaders(count).items()
        if name != MERGED  # costs what the layer alone costs
    }
    sides[PLAIN] = lambda: with_hooks(model, [], call)
    sides[HOOKS] = lambda: with_hooks(model, numbers, call)
    plain = {LAYER: shape.build(torch.nn, given.dtype)}
    peft = peft_layers(plain, [rank] * count, given.dtype, bench.device)[LAYER]
    sides[PEFT] = lambda: nullcontext(lambda: peft(given))
    seconds = alternate(sides, bench.device, bench.runs)
    return {name: 1000 * value for name, value in seconds.items()}


def error_rows(bench: Bench) -> list[Row]:
    """How far the change of a layer's output is from what the file says, relative to it."""
    rows: list[Row] = []
    for shape in CHECKED:
        for storage in STORAGES:
            for computed, dtype in COMPUTED.items():
                case = f"error, {shape.name} in {storage}, computed in {computed}"
                if bench.wanted(case):
                    rows += _error_case(bench, case, shape.smaller() if bench.small else shape, storage, dtype)
    return rows


def _error_case(bench: Bench, case: str, shape: LayerShape, storage: str, dtype: torch.dtype) -> list[Row]:
    found = stored_layer(shape, storage)
    if found is None:
        print(f"{case}: this host can't", flush=True)
        return []
    layer, stored = found
    model = carry_layer(layer, dtype, stored, bench.device)
    names, numbers = bench.write({PATH: shape.weight}, 1, CHECKED_RANK, "error", CHECKED_SIZE / STRENGTH)
    given = shape.input(1, dtype, bench.device)
    delta = STRENGTH * numbers[0][PATH].delta()
    inputs = given.to(CPU, torch.float64)
    if delta.dim() == 2:
        truth = torch.nn.functional.linear(inputs, delta)
    else:
        truth = torch.nn.functional.conv2d(inputs, delta, padding=delta.shape[-1] // 2)

    def output(side: Side) -> torch.Tensor:
        with side():
            return carried(model)(given).to(CPU, torch.float64)

    idle = lambda: None  # noqa: E731
    base = output(lambda: with_hooks(model, [], idle))
    errors: dict[str, float] = {}
    for name, loader in loaders(1).items():
        try:
            change = output(lambda loader=loader: with_loader(loader, model, names, idle)) - base
        except Exception as error:  # whatever is raised by a host that can't merge into such weights
            print(f"{case}, {name}: {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        errors[name] = float((change - truth).norm() / truth.norm())
    return _rows(case, errors, "relative error")


def memory_rows(bench: Bench) -> list[Row]:
    """What the graph and its loading take beyond a loaded model without adapters; files are read anew."""
    rows: list[Row] = []
    for count in HELD_COUNTS:
        case = f"memory, {bench.unet_name}, {count} x rank {RANK}"
        if not bench.wanted(case):
            continue
        names, _ = bench.files(count, RANK)
        found: dict[str, list[Memory]] = {}
        for _ in range(bench.runs):
            for name, loader in loaders(count).items():
                found.setdefault(name, []).append(_memory(bench, loader, names))
        rows += _rows(f"{case}, peak", {name: _median(m.peak for m in all_) for name, all_ in found.items()}, "MB")
        rows += _rows(f"{case}, held", {name: _median(m.held for m in all_) for name, all_ in found.items()}, "MB")
    return rows


def _memory(bench: Bench, loader: Loader, names: Sequence[str]) -> Memory:
    unload()
    forget_files()
    plain = load(bench.unet.clone())
    return memory_of(lambda: load(chain(loader, plain, names)), unload, bench.device)


def _median(values: Any) -> float:
    return statistics.median(list(values))


def _rows(case: str, values: Mapping[str, float], unit: str) -> list[Row]:
    """Each of our modes beside the peers; less is better. A merge is only held against what does the same."""
    print(f"{case}:", ", ".join(f"{name} {value:.4g}" for name, value in values.items()), unit, flush=True)
    modes = {mode: own_name(mode) for mode in own_modes(with_auto=True)}
    return [
        Row(f"{case}, {mode}", values[own], peer, name, peer / values[own] if values[own] else None, unit)
        for mode, own in modes.items()
        for name, peer in values.items()
        if own in values and name not in modes.values() and (mode != "merge" or name in (MERGED, PLAIN, PLAIN_UNET))
    ]


HEAD = """# Benchmarks

What applied adapters cost and how exact they are: LoRA Loom beside its peers, with random weights, on
{machine}. A ratio above 1 means that LoRA Loom is better. Made by
`python -m benchmarks.apply --json OUT --table docs/benchmarks.md`.
"""
TABLE_HEAD = """
## {title}

| Case | LoRA Loom | Peer | | Ratio |
|---|---:|---|---:|---:|
"""
TITLES = {
    "change": "A changed strength",
    "step": "One call of the UNet",
    "diffusers": "One call of diffusers' UNet",
    "layer": "One call of one layer",
    "error": "Error of the change of a layer's output",
    "memory": "Memory beyond the model's",
}


def page(rows: Sequence[Row], machine: Machine) -> str:
    """The rows as a page in Markdown, a table for each part."""
    text = HEAD.format(machine=machine)
    for part, title in TITLES.items():
        lines = [_line(row, part) for row in rows if row.case.startswith(f"{part}, ")]
        if lines:
            text += TABLE_HEAD.format(title=title) + "".join(lines)
    return text


def _line(row: Row, part: str) -> str:
    peer, ratio = (f"{value:.3g}" if value is not None else "-" for value in (row.peer, row.ratio))
    unit = f" {row.unit}" if len(row.unit) < 3 else ""
    case = row.case.removeprefix(f"{part}, ")
    return f"| {case} | {row.ours:.3g}{unit} | {row.peer_name} | {peer}{unit} | {ratio} |\n"


if __name__ == "__main__":
    main()
