"""Keys of every recorded list that find their layer, against ComfyUI's own loader; also writes docs/coverage.md.

Each list is held against the model that it was made for. What the host leaves is what it logs as "lora key not loaded",
on a model without weights that its own code builds; where it can't build one, the figure is a recorded one.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ._host import start_host
from ._measure import Row, write_rows
from ._meta_models import WithoutWeights, adapter_tensors, host_key_map, host_model, read_list
from ._models import KEY_LISTS

NO_ADAPTERS = ("base_", "map_")  # beginnings of the lists that are models and name maps
RECORDED = KEY_LISTS / "host_coverage.json"
WILD = "wild/"
NOT_LOADED = "lora key not loaded"  # what the host logs for each key that it leaves
NEVER = "-"

# Beginning of a list's name -> base lists of the model that it was made for: the denoiser, then its text encoders. The
# longest fitting beginning counts. A family with one base list named like it needs no row.
MODELS: Mapping[str, tuple[str, ...]] = {
    "sd15": ("sd15_unet_comfy", "sd15_clip_comfy"),
    "sd21": ("sd21_unet_comfy",),
    "sdxl": ("sdxl_unet_comfy", "sdxl_clip_comfy"),
    "flux": ("flux1_dev_comfy", "flux_clip_comfy"),
    "flux2": ("flux2_dev_comfy",),
    "sd3": ("sd3_medium_comfy", "sd3_clip_comfy"),
    "sd3m": ("sd3_medium_comfy", "sd3_clip_comfy"),
    "sd35l": ("sd35_large_comfy", "sd3_clip_comfy"),
    "sd35m": ("sd35_medium_comfy", "sd3_clip_comfy"),
    "wan": ("wan21_t2v_14b_comfy",),
    "wan22": ("wan21_t2v_14b_comfy",),
    "wan_i2v": ("wan21_i2v_14b_comfy",),
    "qwen": ("qwen_image_comfy",),
    "ltxv": ("ltxv_2b_comfy",),
}

HEAD = """# Coverage

Keys of recorded adapter files that find their layer, held against the model that each was made for: by LoRA Loom, and
by the loader of {host} ("left": keys that it logs as not loaded; † recorded with {recorded}, because
this host can't build the model from its names). A key that is loaded by name may still be applied wrongly.
Sources of the lists: [tests/key_lists](../tests/key_lists/README.md). Made by `python -m devtools.coverage`.

LoRA Loom takes {ours} of {lists} lists whole, the host {theirs} of {their_lists}. Of the {keys} keys in the lists that
both were given, LoRA Loom leaves {ours_left} and the host {theirs_left}.

| List | Keys | Matched | Ignored | Unmatched | Left by the host |
|---|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Account:
    """Where the keys of one list went with us."""

    keys: int
    matched: int
    ignored: int
    unmatched: int


@dataclass(frozen=True)
class HostAccount:
    """Keys that the host left."""

    left: int
    live: bool  # False for a recorded figure

    def __str__(self) -> str:
        return str(self.left) if self.live else f"{self.left} †"


def main() -> None:
    """Account for all lists on both sides; write the rows and, where it is asked for, the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--table", type=Path, metavar="FILE", help="file for the table in Markdown")
    options = parser.parse_args()
    host = start_host()
    from lora_pack.devtools.hosts import read_host

    found = read_host(host)
    version = f"ComfyUI {found.version if found else 'unknown'}"
    print(f"host: {version}", flush=True)
    names = list_names()
    for name in names:
        model_of(name)  # a list without a model is told before the work begins
    ours = {name: own_account(name) for name in names}
    theirs = {name: host_account(name, account.keys) for name, account in ours.items()}
    write_rows(options.json, [_row(name, ours[name], theirs[name], version) for name in ours])
    if options.table:
        options.table.write_text(table(ours, theirs, version), encoding="utf-8")


def list_names() -> list[str]:
    """Every recorded list of an adapter's keys."""
    names = (path.name.removesuffix(".json.gz") for path in KEY_LISTS.glob("*.json.gz"))
    return [*sorted(name for name in names if not name.startswith(NO_ADAPTERS)), *(f"{WILD}{name}" for name in _wild())]


@lru_cache
def _wild() -> Mapping[str, Any]:
    """Lists after reports of users -> the models and the source of each."""
    return json.loads((KEY_LISTS / WILD / "index.json").read_text(encoding="utf-8"))


def model_of(name: str) -> tuple[str, ...]:
    """The base lists of the model that a list was made for."""
    if name.startswith(WILD):
        return tuple(_wild()[name.removeprefix(WILD)]["models"])
    fitting = [start for start in MODELS if name.startswith(f"{start}_")]
    if fitting:
        return MODELS[max(fitting, key=len)]
    named = sorted(KEY_LISTS.glob("base_*_comfy.json.gz"))
    bases = [path.name.removeprefix("base_").removesuffix(".json.gz") for path in named]
    alike = [base for base in bases if name.startswith(f"{base.removesuffix('_comfy')}_")]
    alike = alike or [base for base in bases if base.startswith(f"{name.split('_')[0]}_")]
    if len(alike) != 1:
        raise SystemExit(f"which model is the list {name} for? Add a row to MODELS in benchmarks/coverage.py")
    return tuple(alike)


def own_account(name: str) -> Account:
    """Where we put the keys of a list."""
    from lora_pack.lora_core import LoraError
    from lora_pack.lora_core.loading.inspection import inspect_file, open_file_or_key_list

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name.replace('/', '_')}.json"
        path.write_text(json.dumps(read_list(name)), encoding="utf-8")
        file = open_file_or_key_list(path)
        try:
            report = inspect_file(file, _layout(model_of(name)))
            report.require_family()
        except LoraError as refused:
            print(f"{name}: {refused}", flush=True)
            return Account(len(file.header.entries), 0, 0, len(file.header.entries))
    return Account(report.keys, len(report.matched), len(report.ignored), len(report.unmatched))


@lru_cache
def _layout(bases: tuple[str, ...]) -> Any:
    from lora_pack.lora_core import list_targets

    return list_targets({key: tuple(shape) for base in bases for key, (_, shape) in read_list(f"base_{base}").items()})


def host_account(name: str, keys: int) -> HostAccount | None:
    """What the host leaves of a list: live, or as recorded, or None where neither is there."""
    import comfy.lora
    import comfy.lora_convert

    try:
        key_map = _key_map(model_of(name))
        with _logged() as messages:
            comfy.lora.load_lora(comfy.lora_convert.convert_lora(adapter_tensors(name)), key_map)
    except Exception as error:  # whatever the host's code raises
        print(f"{name}: {type(error).__name__}: {str(error)[:100]}", flush=True)
        recorded = _recorded().get(name)
        return HostAccount(recorded, live=False) if recorded is not None else None
    return HostAccount(min(keys, sum(NOT_LOADED in message for message in messages)), live=True)


@lru_cache
def _key_map(bases: tuple[str, ...]) -> Mapping[str, Any]:
    shapes = {key: shape for base in bases[1:] for key, (_, shape) in read_list(f"base_{base}").items()}
    return host_key_map(host_model(bases[0]), WithoutWeights(shapes) if shapes else None)


@contextmanager
def _logged() -> Iterator[list[str]]:
    """The host's messages while the block runs, kept from the console."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger()
    others, logger.handlers = logger.handlers, [handler]
    try:
        yield messages
    finally:
        logger.handlers = others


@lru_cache
def _recorded() -> Mapping[str, int]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))["left"]


def _row(name: str, ours: Account, theirs: HostAccount | None, version: str) -> Row:
    taken = None if theirs is None else ours.keys - theirs.left
    ratio = None if taken is None else ours.matched / max(taken, 1)
    return Row(f"{name}, {ours.keys} keys", ours.matched, taken, version, ratio, "keys taken")


def table(ours: Mapping[str, Account], theirs: Mapping[str, HostAccount | None], version: str) -> str:
    """The page docs/coverage.md."""
    known = {name: account for name, account in theirs.items() if account is not None}
    head = HEAD.format(
        host=version,
        recorded=json.loads(RECORDED.read_text(encoding="utf-8"))["host"],
        lists=len(ours),
        ours=sum(account.matched == account.keys for account in ours.values()),
        theirs=sum(account.left == 0 for account in known.values()),
        their_lists=len(known),
        keys=sum(ours[name].keys for name in known),
        ours_left=sum(ours[name].keys - ours[name].matched for name in known),
        theirs_left=sum(account.left for account in known.values()),
    )
    lines = [
        f"| {name} | {own.keys} | {own.matched} | {own.ignored} | {own.unmatched} | {known.get(name, NEVER)} |\n"
        for name, own in ours.items()
    ]
    return head + "".join(lines)


def read_table(text: str) -> dict[str, Account]:
    """Our own columns of the page."""
    rows: Sequence[list[str]] = [
        [cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {name: Account(*map(int, cells[:4])) for name, *cells in rows[2:]}


if __name__ == "__main__":
    main()
