"""Finding the layer of every key of large files, against the host's own key map and loader; and looks without loading.

Both sides get a model without weights and the same tensors without values: this measures names and assembly, not
reading (see load.py). "first load" builds our table of names; "next load" keeps it, as the nodes do for a model in use.
The host builds its key map at every load.
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._host import start_host
from ._measure import Cost, Row, arguments, measure, median_cost, write_rows

RUNS = 7
CASES = (  # what the list is, key list, denoiser, text encoders
    ("SDXL LoHa", "sdxl_lycoris_loha_inspector", "sdxl_unet_comfy", "sdxl_clip_comfy"),
    ("SDXL LoRA", "sdxl_kohya_lora_sdscripts", "sdxl_unet_comfy", "sdxl_clip_comfy"),
    ("Flux DoRA of OneTrainer", "flux_onetrainer_dora_invoke", "flux1_dev_comfy", "flux_clip_comfy"),
    ("Qwen-Image Lightning", "qwen_lightning_muchai", "qwen_image_comfy", None),
)
SAME_LAYERS = "sdxl_kohya_locon_sdscripts"  # has the layers of the LoHa list, and their shapes
PEER = "ComfyUI key map + load_lora"
LISTING = "safetensors safe_open, names and shapes only"
RUBBISH = 5_000  # keys
SPARSE_RANK = 1024  # makes the sparse LoRA some gigabytes

Side = Callable[[], object]


def main() -> None:
    """Run all cases and write their rows."""
    options = arguments(__doc__ or "", RUNS)
    print(f"host: {start_host()}", flush=True)
    rows: list[Row] = []
    for case in CASES:
        if options.only in case[0]:
            rows += _mapping_rows(*case, options.runs)
    with tempfile.TemporaryDirectory() as folder:
        for title, rows_of in (("headers", _header_rows), ("unmatched", _rubbish_rows)):
            if options.only in title:
                rows += rows_of(Path(folder), options.runs)
    write_rows(options.json, rows)


def _mapping_rows(title: str, list_name: str, base: str, clip_base: str | None, runs: int) -> list[Row]:
    from lora_pack.nodes.comfy_bridge import ModelNames

    from ._meta_models import adapter_tensors, host_clip, host_model

    model, clip = host_model(base), host_clip(clip_base) if clip_base else None
    tensors = _with_loha_shapes(adapter_tensors(list_name))
    file = _as_file(list_name, tensors)
    kept = ModelNames(_shapes(model, clip))
    matched = _assemble(file, kept, tensors).report.matched
    title = f"{title}, {len(tensors)} keys"
    print(
        f"{title}: {len(matched)} matched by us, {_loaded_by_host(tensors, model, clip)} layers by the host", flush=True
    )
    peer = lambda: _host_load(tensors, model, clip)  # noqa: E731
    ours: dict[str, Side] = {
        "first load": lambda: _assemble(file, ModelNames(_shapes(model, clip)), tensors),
        "next load": lambda: _assemble(file, kept, tensors),
    }
    return [_compared(f"{title}, {phase}", work, peer, PEER, runs) for phase, work in ours.items()]


def _compared(case: str, ours: Side, peer: Side | None, peer_name: str, runs: int) -> Row:
    """The medians of alternating runs; time only."""
    costs: dict[str, list[Cost]] = {"ours": [], "peer": []}
    sides = [("ours", ours), *([("peer", peer)] if peer else [])]
    for run in range(runs):
        for side, work in sides if run % 2 == 0 else reversed(sides):
            if side == "ours":
                _forget_parsed_keys()
            costs[side].append(measure(work))
    own = median_cost(costs["ours"]).seconds
    other = median_cost(costs["peer"]).seconds if peer else None
    row = Row(case, own, other, peer_name, other / own if other else None, "s")
    print(row, flush=True)
    return row


def _forget_parsed_keys() -> None:
    """A process that loads a file for the first time has no key of it in memory."""
    import lora_pack.lora_core.names.key_map as key_map

    for kept in vars(key_map).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


def _as_file(name: str, tensors: Mapping[str, torch.Tensor]) -> Any:
    from lora_pack.lora_core.files.lora_file import FileIdentity, LoraFile
    from lora_pack.lora_core.files.safetensors_header import Header, TensorEntry

    entries = {key: TensorEntry(tensor.dtype, tuple(tensor.shape), 0, 0) for key, tensor in tensors.items()}
    return LoraFile(FileIdentity(Path(name), 0, 0), Header(entries, {}), None)


class _Given:
    """Hands out tensors that are in memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensor = tensors.__getitem__


def _assemble(file: Any, names: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    from lora_pack.lora_core.loading.file_family import family_of_header
    from lora_pack.lora_core.loading.loaded_lora import assemble

    return assemble(file, family_of_header(file.header), names.layout, names.table, _Given(tensors))


def _shapes(model: Any, clip: Any) -> dict[str, tuple[int, ...]]:
    parts = [model] if clip is None else [model, clip]
    return {name: tuple(tensor.shape) for part in parts for name, tensor in part.state_dict().items()}


def _host_load(tensors: Mapping[str, torch.Tensor], model: Any, clip: Any) -> dict[str, Any]:
    import comfy.lora
    import comfy.lora_convert

    from ._meta_models import host_key_map

    key_map = host_key_map(model, clip)
    return comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), key_map, log_missing=False)


def _loaded_by_host(tensors: Mapping[str, torch.Tensor], model: Any, clip: Any) -> int:
    return len(_host_load(tensors, model, clip))


def _with_loha_shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LoHa factors of rank 1, for a list that has names alone; the sides come from a LoCon for the same layers."""
    from ._meta_models import read_list

    shapes = {key: shape for key, (_, shape) in read_list(SAME_LAYERS).items()}
    shaped = dict(tensors)
    for key in tensors:
        layer, _, parameter = key.rpartition(".")
        if parameter in ("hada_w1_a", "hada_w2_a"):
            shaped[key] = torch.empty((shapes[f"{layer}.lora_up.weight"][0], 1), device="meta")
        elif parameter in ("hada_w1_b", "hada_w2_b"):
            shaped[key] = torch.empty((1, math.prod(shapes[f"{layer}.lora_down.weight"][1:])), device="meta")
    return shaped


def _header_rows(folder: Path, runs: int) -> Sequence[Row]:
    """A LoRA and a checkpoint of some gigabytes each, sparse on the disk."""
    from lora_pack.lora_core.files.lora_file import open_lora
    from lora_pack.lora_core.loading.inspection import inspect_file, read_layout

    from ._meta_models import read_list

    lora = {key: _rank(shape) for key, (_, shape) in read_list("sdxl_kohya_lora_sdscripts").items()}
    flux = {key: shape for key, (_, shape) in read_list("base_flux1_dev_comfy").items()}
    files = {
        "account of a LoRA": (_write_sparse(folder / "lora.safetensors", lora), lambda p: inspect_file(open_lora(p))),
        "layers of a Flux checkpoint": (_write_sparse(folder / "flux.safetensors", flux), read_layout),
    }
    return [
        _compared(
            f"headers only, {title}, {path.stat().st_size / 1e9:.1f} GB",
            lambda path=path, work=work: work(path),
            lambda path=path: _list(path),
            LISTING,
            runs,
        )
        for title, (path, work) in files.items()
    ]


def _rank(shape: Sequence[int]) -> list[int]:
    return [SPARSE_RANK if side == 8 else side for side in shape]


def _write_sparse(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    header: dict[str, Any] = {}
    position = 0
    for key, shape in shapes.items():
        end = position + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return path


def _list(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  no mapping


def _rubbish_rows(_folder: Path, runs: int) -> Sequence[Row]:
    """Every layer's name misspelled, several times over: each key asks for the nearest name."""
    from lora_pack.lora_core import NameTable
    from lora_pack.lora_core.names.key_map import map_keys
    from lora_pack.lora_core.names.nearest import NearestNames
    from lora_pack.lora_core.names.target_layer import list_targets

    from ._meta_models import read_list

    layout = list_targets({key: tuple(shape) for key, (_, shape) in read_list("base_sdxl_unet_comfy").items()})
    names = [target.inner for target in layout.targets.values()]
    layers = [name.replace(".", "_") for name in names]
    wrong = [f"lora_unet_{layers[number % len(layers)]}_x{number // len(layers)}" for number in range(RUBBISH)]
    keys = [f"{layer}.lora_down.weight" for layer in wrong]
    table = NameTable(layout)

    def hints() -> list[str | None]:
        nearest = NearestNames(names)
        return [nearest.of(layer) for layer in wrong]

    print(f"{sum(hint is not None for hint in hints())} of {len(wrong)} names got a hint", flush=True)
    return [
        _compared(f"unmatched, nearest names of {RUBBISH} layers", hints, None, "-", runs),
        _compared(f"unmatched, map of {RUBBISH} keys with hints", lambda: map_keys(keys, table), None, "-", runs),
    ]


if __name__ == "__main__":
    main()
