"""Opening, mapping and applying a full kohya LoRA on SD1.5 and SDXL, against the host's own LoraLoader.

Three cases each: reading the file up to the patched clones; writing its deltas into the weights; both together.
Every run starts cold: no file in our cache, no names kept for the model. The page cache is warm for both sides.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._host import start_host
from ._measure import Cost, Row, arguments, compare, measure, median_cost, write_rows

RUNS = 3
STRENGTH = 0.8
CASES = (  # family, key list, rank
    ("SD1.5", "sd15_kohya_lora_sdscripts", 8),
    ("SD1.5", "sd15_kohya_lora_sdscripts", 64),
    ("SDXL", "sdxl_kohya_lora_sdscripts", 8),
    ("SDXL", "sdxl_kohya_lora_sdscripts", 64),
)
PEER = "ComfyUI LoraLoader"

Opened = tuple[Any, Any]  # patched model and CLIP


def main() -> None:
    """Run all cases and write their rows."""
    options = arguments(__doc__ or "", RUNS)
    cases = [case for case in CASES if options.only in f"{case[0]} rank {case[2]}"]
    print(f"host: {start_host()}", flush=True)
    import folder_paths

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.folder_names_and_paths["loras"] = ([folder], folder_paths.supported_pt_extensions)
        for family in dict.fromkeys(case[0] for case in cases):
            rows += _family_rows(family, [case for case in cases if case[0] == family], Path(folder), options.runs)
    write_rows(options.json, rows)


def _family_rows(family: str, cases: Sequence[tuple[str, str, int]], folder: Path, runs: int) -> list[Row]:
    from ._models import build_clip, build_model, write_adapter

    model, clip = build_model(family), build_clip(family)
    rows: list[Row] = []
    for _, list_name, rank in cases:
        name = f"{list_name}_{rank}.safetensors"
        write_adapter(list_name, rank, folder / name)
        openers: dict[str, Callable[[], Opened]] = {
            "ours": lambda name=name: _open_ours(model, clip, name),
            PEER: lambda name=name: _open_peer(model, clip, name),
        }
        costs: dict[tuple[str, str], list[Cost]] = {}
        for run in range(runs):
            for side, opener in openers.items() if run % 2 == 0 else reversed(openers.items()):
                for phase, cost in _run(opener).items():
                    costs.setdefault((phase, side), []).append(cost)
        for phase in ("open and map", "write into the weights", "together"):
            ours, peer = (median_cost(costs[phase, side]) for side in openers)
            rows += compare(f"{family} rank {rank}, {phase}", ours, peer, PEER)
            print(*rows[-2:], sep="\n", flush=True)
    return rows


def _run(opener: Callable[[], Opened]) -> dict[str, Cost]:
    opener()  # page cache and code warm
    opening = measure(opener)
    held = opener()
    applying = measure(lambda: _apply(held), _unload)
    together = measure(lambda: _apply(opener()), _unload)
    return {"open and map": opening, "write into the weights": applying, "together": together}


def _open_ours(model: Any, clip: Any, name: str) -> Opened:
    import lora_pack.nodes.comfy_bridge as bridge
    from lora_pack.nodes.apply.apply_lora import ApplyLora
    from lora_pack.nodes.host_files.loading import CACHE

    CACHE.clear()
    bridge.forget_names()
    return ApplyLora.execute(model, name, STRENGTH, STRENGTH, "error", clip).args[:2]


def _open_peer(model: Any, clip: Any, name: str) -> Opened:
    import nodes

    return nodes.LoraLoader().load_lora(model, clip, name, STRENGTH, STRENGTH)


def _apply(opened: Opened) -> Opened:
    import comfy.model_management

    model, clip = opened
    comfy.model_management.load_models_gpu([model, clip.patcher])
    return opened


def _unload() -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()


if __name__ == "__main__":
    main()
