"""Every name under which a block is shown, anywhere, is a name that block strengths are taken for."""

import json
from pathlib import Path

import pytest
from lora_pack.lora_core import ModelLayout, NameTable
from lora_pack.lora_core.file_work.block_sums import count_blocks
from lora_pack.lora_core.loading.inspection import inspect_file, open_file_or_key_list
from lora_pack.lora_core.names.block_names import block_in_file, block_of, short_block_of
from lora_pack.lora_core.names.key_map import bare_name, map_keys
from lora_pack.lora_core.weave.block_strengths import block_names, parse_block_strengths

from ..adapter_files import model_layout, read_list
from .test_key_lists import COMPLETE


def _taken(names: list[str], layout: ModelLayout) -> None:
    parse_block_strengths(", ".join(f"{name}=0.5" for name in names)).check(NameTable(layout))


@pytest.mark.parametrize(("name", "model"), [(row[0], row[1]) for row in COMPLETE], ids=[row[0] for row in COMPLETE])
def test_every_block_that_a_report_shows_is_taken(name: str, model: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(read_list(name)), encoding="utf-8")
    file, layout = open_file_or_key_list(path), model_layout(*model)
    for report in (inspect_file(file), inspect_file(file, layout)):
        shown = [count.block for count in count_blocks(report) if count.matched]
        assert shown
        _taken(shown, layout)


@pytest.mark.parametrize("model", sorted({row[1] for row in COMPLETE}), ids=str)
def test_every_block_of_plots_merges_and_errors_is_taken(model: tuple[str, ...]) -> None:
    layout = model_layout(*model)
    targets = layout.targets.values()
    _taken([*map(block_of, targets), *map(short_block_of, targets), *block_names(layout)], layout)


@pytest.mark.parametrize("name", ["sd15_kohya_lora_sdscripts", "sd15_diffusers_unet_lora_AB"])
def test_a_name_that_a_file_shows_means_the_layers_of_that_block_alone(name: str) -> None:
    layout = model_layout("sd15_unet_comfy", "sd15_clip_comfy")
    table = NameTable(layout)
    wanted: dict[str, set[str]] = {}
    for layer in map_keys(read_list(name), table).layers:
        wanted.setdefault(block_in_file(bare_name(layer.layer)), set()).update(place.path for place in layer.places)
    for block, paths in wanted.items():
        strengths = parse_block_strengths(f"{block}=0.5")
        moved = {path for path, names in table.names_by_path.items() if strengths.of(names) == 0.5}
        assert paths <= moved
        shown_for = {short_block_of(layout.targets[path]) for path in paths}
        assert {short_block_of(layout.targets[path]) for path in moved} == shown_for, block
