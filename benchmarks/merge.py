"""Merging, resizing and extracting against PEFT and against the way that other packs do it, each with its error.

One layer: two LoRAs to their own rank by PEFT's add_weighted_adapter("svd"), a dense decomposition; the difference of
two checkpoints by torch.svd_lowrank with the settings of KJNodes (columns = rank, 7 steps). Whole file: all layers of
SDXL, from the open files to the tensors of the new one; nobody else does that exactly, so there is no peer.

Whole models: the linear layers of SDXL's UNet and of Flux with random factors, K LoRAs to their own rank. One layer of
each shape is measured on every side and counts as often as the model has it. Of Flux, whose largest layers take a dense
decomposition minutes, the dense side is measured on 3072 x 3072 and grows with out * in * min(out, in).
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import _merge_models as peers_of
from ._host import start_host
from ._measure import Row, arguments, measure, median_cost, write_rows

RUNS = 3
CLOCK = time.process_time  # of the one thread that works: the machine may be shared
LAYERS = ((640, 640, 16), (1280, 1280, 32), (3072, 3072, 32))  # out, in, rank of each of two LoRAs
EXTRACTED = ((1280, 1280, 32), (3072, 3072, 64))  # out, in, rank
KEY_LIST = "sdxl_kohya_lora_sdscripts"
MODELS = ("SDXL", "Flux")
CASES = ((2, 16), (2, 32), (2, 64), (8, 16), (8, 32), (8, 64))  # K LoRAs, their rank and that of the result
AIM = (2, 32)  # the case that all peers are measured on
DENSE_SHAPE = {"SDXL": None, "Flux": (3072, 3072)}  # the only shape of a model that the dense side is measured on

Work = Callable[[Sequence[tuple[Tensor, Tensor]], int], tuple[Tensor, Tensor]]  # pairs, rank -> up, down


def main() -> None:
    """Run all cases and write their rows."""
    options = arguments(__doc__ or "", RUNS)
    print(f"host: {start_host()}", flush=True)  # PEFT needs the parts of torchvision that the host brings
    torch.set_num_threads(1)
    rows: list[Row] = []
    for out, inputs, rank in LAYERS:
        if options.only in "merge layer":
            rows += _layer_rows(out, inputs, rank, options.runs)
    for out, inputs, rank in EXTRACTED:
        if options.only in "extract":
            rows += _extract_rows(out, inputs, rank, options.runs)
    for model in MODELS:
        if options.only in f"model {model}":
            rows += _model_rows(model, options.runs) + _memory_rows(model)
    if options.only in "file":
        rows += _file_rows(options.runs)
    write_rows(options.json, rows)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _layer_rows(out: int, inputs: int, rank: int, runs: int) -> list[Row]:
    from lora_pack.lora_core.file_work.deltas.factored import Factored, concat, nearest
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential()
    base.add_module("proj", nn.Linear(inputs, out, bias=False))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["proj"], init_lora_weights=False)
    model = get_peft_model(base, config, adapter_name="0")
    model.add_adapter("1", config)
    layer = model.base_model.model.proj
    pairs = [(layer.lora_B[n].weight.detach(), layer.lora_A[n].weight.detach()) for n in "01"]

    def ours() -> Tensor:
        merged = concat([Factored(up.double(), down.double()) for up, down in pairs])
        return nearest(merged.spectrum, rank).up

    def peers() -> object:
        model.add_weighted_adapter(["0", "1"], [1.0, 1.0], "merged", combination_type="svd", svd_rank=rank)
        return None

    def undo() -> None:
        model.delete_adapter("merged")

    own = median_cost([measure(ours, clock=CLOCK) for _ in range(runs)])
    peer = median_cost([measure(peers, undo, CLOCK) for _ in range(runs)])
    case = f"merge layer {out}x{inputs}, two of rank {rank} to rank {rank}, time"
    return [Row(case, own.seconds, peer.seconds, "PEFT svd", peer.seconds / own.seconds, "s")]


def _extract_rows(out: int, inputs: int, rank: int, runs: int) -> list[Row]:
    from lora_pack.lora_core.file_work.deltas.factored import nearest
    from lora_pack.lora_core.file_work.deltas.randomised_svd import leading_spectrum
    from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits

    smaller = min(out, inputs)
    left, right = (
        torch.linalg.qr(_random(out, smaller, seed=1))[0],
        torch.linalg.qr(_random(inputs, smaller, seed=2))[0],
    )
    values = torch.arange(1, smaller + 1).float().pow(-0.7)
    matrix = (left * values) @ right.T
    best = float(values[rank:].square().sum().sqrt())
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found_spectrum = leading_spectrum(matrix, RankLimits(rank=rank), torch.Generator().manual_seed(0)).spectrum
        kept = nearest(found_spectrum, rank)
        found["ours"] = kept.up @ kept.down

    def peers() -> None:
        u, s, v = torch.svd_lowrank(matrix, q=rank, niter=7)
        found["peer"] = (u * s) @ v.T

    name = "torch.svd_lowrank, KJNodes' settings"
    pairs = [
        (measure(ours, clock=CLOCK), measure(peers, clock=CLOCK)) for _ in range(runs)
    ]  # by turns: what else the machine does hits both
    own, peer = (median_cost(costs) for costs in zip(*pairs, strict=True))
    case = f"extract {out}x{inputs} to rank {rank}"
    excess = {side: float((matrix - kept).norm()) / best - 1 for side, kept in found.items()}
    return [
        Row(f"{case}, time", own.seconds, peer.seconds, name, peer.seconds / own.seconds, "s"),
        Row(f"{case}, error", 1 + excess["ours"], 1 + excess["peer"], name, _ratio(excess), "of the least there is"),
    ]


def _model_rows(model: str, runs: int) -> list[Row]:
    """Seconds for all layers of a model, summed over its shapes."""
    shapes = peers_of.shapes(model)
    dense = _dense_seconds(model, peers_of.economy)
    rows: list[Row] = []
    for count, rank in CASES:
        ours = sum(times * _seconds(_ours, shape, count, rank, runs) for shape, times in shapes.items())
        case = f"merge model {model}, {sum(shapes.values())} layers, {count} x rank {rank} to rank {rank}"
        rows.append(Row(f"{case}, time", ours, dense, "dense economy SVD, fp32", dense / ours, "s"))
        if (count, rank) == AIM and DENSE_SHAPE[model] is None:
            others = {"sd-scripts' formula": peers_of.sd_scripts, "PEFT svd": _peft}
            for name, work in others.items():
                peer = _dense_seconds(model, work)
                rows.append(Row(f"{case}, time", ours, peer, name, peer / ours, "s"))
    return rows + (_error_rows() if model == "SDXL" else [])


def _dense_seconds(model: str, work: Work) -> float:
    shapes, only = peers_of.shapes(model), DENSE_SHAPE[model]
    if only is None:
        return sum(times * _seconds(work, shape, *AIM, 1) for shape, times in shapes.items())
    measured = _seconds(work, only, *AIM, 1)
    cost = {shape: shape[0] * shape[1] * min(shape) for shape in shapes}
    return measured * sum(times * cost[shape] for shape, times in shapes.items()) / cost[only]


def _seconds(work: Work, shape: peers_of.Shape, count: int, rank: int, runs: int) -> float:
    pairs = peers_of.random_pairs(shape, rank, count)
    if work is _ours:
        work(pairs, rank)  # the first call of a shape also gets its memory
    return median_cost([measure(lambda: work(pairs, rank), clock=CLOCK) for _ in range(runs)]).seconds


def _ours(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    from lora_pack.lora_core.file_work.deltas.factored import Factored, concat, nearest

    merged = nearest(concat([Factored(up.double(), down.double()) for up, down in pairs]).spectrum, rank)
    return merged.up, merged.down


def _peft(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential()
    base.add_module("proj", nn.Linear(pairs[0][1].shape[1], pairs[0][0].shape[0], bias=False))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["proj"])
    names = [str(number) for number in range(len(pairs))]
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model.proj
    with torch.no_grad():
        for name, (up, down) in zip(names, pairs, strict=True):
            layer.lora_B[name].weight.copy_(up)
            layer.lora_A[name].weight.copy_(down)
    model.add_weighted_adapter(names, [1.0] * len(pairs), "merged", combination_type="svd", svd_rank=rank)
    return layer.lora_B["merged"].weight.detach(), layer.lora_A["merged"].weight.detach()


def _error_rows() -> list[Row]:
    """|result - best of its rank| / |best of its rank|, the best one by a dense decomposition in float64."""
    rows: list[Row] = []
    works: dict[str, Work] = {"dense economy SVD, fp32": peers_of.economy, "sd-scripts' formula": peers_of.sd_scripts}
    works["PEFT svd"] = _peft
    for shape in ((640, 640), (1280, 1280)):
        for count, rank in (AIM, (8, 16)):
            pairs = peers_of.random_pairs(shape, rank, count)
            up, down = peers_of.economy([(up.double(), down.double()) for up, down in pairs], rank)
            best = up @ down

            def error(up: Tensor, down: Tensor, best: Tensor = best) -> float:
                return float((up.double() @ down.double() - best).norm() / best.norm())

            ours = _ours(pairs, rank)
            case = f"merge model, error, {shape[0]}x{shape[1]}, {count} x rank {rank}"
            rows.append(Row(f"{case}, in float64", error(*ours), None, "", None, "of the change"))
            stored = error(ours[0].float(), ours[1].float())
            for name, work in works.items():
                theirs = error(*work(pairs, rank))
                rows.append(Row(f"{case}, stored in fp32", stored, theirs, name, theirs / stored, "of the change"))
    return rows


def _memory_rows(model: str) -> list[Row]:
    """Two files of the model to one, from the files to the tensors: seconds, and peak memory over the inputs' bytes."""
    from lora_pack.lora_core import open_lora
    from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
    from lora_pack.lora_core.file_work.merging.merge_files import MergeOrder, merge_files
    from lora_pack.lora_core.file_work.sources import Source

    _, rank = AIM
    with tempfile.TemporaryDirectory() as folder:
        files = [peers_of.write_file(Path(folder) / f"{seed}.safetensors", model, rank, seed) for seed in (1, 2)]
        size = sum(file.stat().st_size for file in files) / 1024**2
        sources = [Source(open_lora(file), 0.8) for file in files]
        order = MergeOrder(method="svd", limits=RankLimits(rank=rank))
        cost = measure(lambda: merge_files(sources, order), clock=CLOCK)
    case = f"merge model {model}, whole files, 2 x rank {rank} to rank {rank}"
    return [
        Row(f"{case}, time", cost.seconds, None, "", None, "s"),
        Row(f"{case}, peak memory", cost.peak, size, "bytes of the inputs", size / cost.peak, "MB"),
    ]


def _ratio(excess: dict[str, float]) -> float:
    return (1 + excess["peer"]) / (1 + excess["ours"])


def _file_rows(runs: int) -> list[Row]:
    from lora_pack.lora_core import open_lora
    from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
    from lora_pack.lora_core.file_work.merging.merge_files import MergeOrder, merge_files
    from lora_pack.lora_core.file_work.resizing import resize
    from lora_pack.lora_core.file_work.sources import Source

    with tempfile.TemporaryDirectory() as folder:
        files = [_written(Path(folder) / f"{seed}.safetensors", seed) for seed in (1, 2)]
        opened = [open_lora(path) for path in files]
        sources = [Source(file, 0.8) for file in opened]
        limits = RankLimits(rank=8)
        works = {
            "merge file, concat": lambda: merge_files(sources, MergeOrder()),
            "merge file, svd": lambda: merge_files(sources, MergeOrder(method="svd", limits=limits)),
            "merge file, ties": lambda: merge_files(sources, MergeOrder(method="ties")),
            "resize file": lambda: resize(opened[0], RankLimits(energy=0.9)),
        }
        rows: list[Row] = []
        for name, work in works.items():
            cost = median_cost([measure(work, clock=CLOCK) for _ in range(runs)])
            rows.append(Row(f"{name}: SDXL, 986 layers of rank 8, time", cost.seconds, None, "", None, "s"))
        return rows


def _written(path: Path, seed: int) -> Path:
    import gzip

    from safetensors.torch import save_file

    text = gzip.decompress((Path(__file__).parents[1] / f"tests/key_lists/{KEY_LIST}.json.gz").read_bytes())
    tensors = {
        key: torch.tensor(4.0) if key.endswith("alpha") else (_random(*shape, seed=seed + n) * 0.02).half()
        for n, (key, (_, shape)) in enumerate(json.loads(text).items())
    }
    save_file(tensors, path)
    return path


if __name__ == "__main__":
    main()
