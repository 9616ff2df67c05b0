"""Lists after users' reports: taken whole, or refused by name; no file is refused by a guess of its family."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import LoraFile, ModelLayout, NameTable, load_lora, open_lora
from lora_pack.lora_core.errors import FamilyMismatch, NotAnAdapter
from lora_pack.lora_core.files.lora_file import FileIdentity
from lora_pack.lora_core.files.safetensors_header import DTYPES, Header, TensorEntry
from lora_pack.lora_core.loading.inspection import inspect_file
from lora_pack.lora_core.names.path_names import diffusers_names
from lora_pack.lora_core.names.target_layer import UNET, TargetLayer
from safetensors.torch import save_file

from ..adapter_files import KEY_LISTS, model_layout, read_list

WILD = json.loads((KEY_LISTS / "wild" / "index.json").read_text(encoding="utf-8"))
REFUSED = {"anima_hydralora_moe": "mixture of LoRAs", "flux1_nunchaku_svdquant": "Nunchaku"}
ABSENT = {"wan21i2v_lightx2v_on_wan22_a14b": (280, "image-to-video")}
LEFT = {"ltx2_textenc_gemma_projection": 4}  # the projection behind LTX-2's text encoder has no place in a layout yet
LAYERS_WRITTEN = 12  # of a list, as a real file

Shapes = Mapping[str, tuple[int, ...]]


@cache
def _layout(*names: str) -> tuple[ModelLayout, NameTable]:
    layout = model_layout(*names)
    return layout, NameTable(layout)


def _file(shapes: Shapes, name: str = "a.safetensors") -> LoraFile:
    entries = {key: TensorEntry(torch.float16, tuple(shape), 0, 0) for key, shape in shapes.items()}
    return LoraFile(FileIdentity(Path(name), 0, 0), Header(entries, {}), None, has_data=False)


@pytest.mark.parametrize("name", sorted(set(WILD) - set(REFUSED)))
def test_a_wild_list_is_taken_whole(name: str) -> None:
    layout, _ = _layout(*WILD[name]["models"])
    report = inspect_file(_file({key: tuple(shape) for key, (_, shape) in read_list(f"wild/{name}").items()}), layout)
    assert report.as_json()["refused"] is None
    assert len(report.unmatched) == LEFT.get(name, 0), report.text()
    count, reason = ABSENT.get(name, (0, ""))
    assert len(report.ignored) == count and all(reason in note.reason for note in report.ignored)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_list_of_another_kind_is_refused_by_name(name: str) -> None:
    layout, table = _layout(*WILD[name]["models"])
    file = _file({key: tuple(shape) for key, (_, shape) in read_list(f"wild/{name}").items()})
    for call in (lambda: inspect_file(file, layout), lambda: load_lora(file, layout, table)):
        with pytest.raises(NotAnAdapter, match=REFUSED[name]):
            call()


@pytest.mark.parametrize("name", sorted(set(WILD) - set(REFUSED)))
def test_a_few_layers_of_a_wild_list_are_loaded_from_a_real_file(name: str, tmp_path: Path) -> None:
    """The account of the header is kept: loading and inspecting go one and the same way."""
    layout, table = _layout(*WILD[name]["models"])
    listed = read_list(f"wild/{name}")
    whole = inspect_file(_file({key: tuple(shape) for key, (_, shape) in listed.items()}), layout)
    layers = dict.fromkeys(key.rsplit(".", 3 if "default" in key else 2)[0] for key in whole.matched)
    kept = tuple(list(layers)[:: max(1, len(layers) // LAYERS_WRITTEN)])
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: (torch.randn(listed[key][1], generator=generator) * 0.01).to(DTYPES.get(listed[key][0], torch.float32))
        for key in whole.matched
        if key.startswith(kept)
    }
    assert tensors
    save_file(tensors, tmp_path / "a.safetensors")
    loaded = load_lora(open_lora(tmp_path / "a.safetensors"), layout, table)
    assert not loaded.report.unmatched, loaded.report.text()
    assert len(loaded.adapters) >= loaded.report.layers > 0


def _denoisers() -> list[str]:
    """Base models of every family, by their own names."""
    found = sorted(path.name.removesuffix(".json.gz")[5:] for path in KEY_LISTS.glob("base_*_comfy.json.gz"))
    return [name for name in found if UNET in _layout(name)[0].parts]


def _lora(out: int, inside: tuple[int, ...]) -> Shapes:
    tail = inside[1:]
    return {"lora_down.weight": (4, *inside), "lora_up.weight": (out, 4, *[1] * len(tail)), "alpha": ()}


def _lokr(out: int, inside: tuple[int, ...]) -> Shapes:
    return {"lokr_w1": (1, 1), "lokr_w2": (out, *inside), "alpha": ()}


def _loha(out: int, inside: tuple[int, ...]) -> Shapes:
    wide = 1
    for side in inside:
        wide *= side
    return {"hada_w1_a": (out, 4), "hada_w1_b": (4, wide), "hada_w2_a": (out, 4), "hada_w2_b": (4, wide), "alpha": ()}


def _diff(out: int, inside: tuple[int, ...]) -> Shapes:
    return {"diff": (out, *inside)}


ALGORITHMS = {"LoRA": _lora, "LoKr": _lokr, "LoHa": _loha, "diff": _diff}
ATTENTION = ("attn", "attention", "qkv", "to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj")


def _of_first_blocks(layout: ModelLayout) -> list[TargetLayer]:
    """The linear layers and convolutions of the outer layers and the first two blocks of each kind."""
    found = [target for target in layout.targets.values() if target.part == UNET and target.is_matrix]
    return [one for one in found if all(int(n) < 2 for n in one.inner.split(".") if n.isdigit())]


def _spellings(layers: list[TargetLayer]) -> Iterator[tuple[str, Shapes]]:
    """(title, layer as a trainer writes it -> weight shape) in each of three trainers' ways."""
    own = {target.inner: tuple(target.shape) for target in layers}
    yield "own", {f"diffusion_model.{name}": shape for name, shape in own.items()}
    yield "kohya", {f"lora_unet_{name.replace('.', '_')}": shape for name, shape in own.items()}
    named: dict[str, tuple[int, ...]] = {}
    for name in diffusers_names(UNET, own):
        start, stop = name.rows or (0, own[name.inner][0])
        named[f"transformer.{name.name}"] = (stop - start, *own[name.inner][1:])
    if named:
        yield "diffusers", named


@pytest.mark.parametrize("model", _denoisers())
def test_no_file_whose_every_key_fits_is_refused_by_a_guess(model: str) -> None:
    layout, _ = _layout(model)
    layers = _of_first_blocks(layout)
    attention = [target for target in layers if any(word in target.inner for word in ATTENTION)]
    wrong: list[str] = []
    for part, chosen in (("all", layers), ("attention", attention), ("the rest", layers[1::2])):
        for title, spelled in _spellings(chosen):
            for algorithm, parameters in ALGORITHMS.items():
                keys: dict[str, tuple[int, ...]] = {}
                for layer, (out, *inside) in spelled.items():
                    keys |= {f"{layer}.{end}": shape for end, shape in parameters(out, tuple(inside)).items()}
                if not keys:
                    continue
                report = inspect_file(_file(keys), layout)
                if report.refused or report.unmatched:
                    what = f"taken for {report.file_family.name}" if report.refused else str(report.unmatched[0])
                    wrong.append(f"{algorithm} of {part} in {title} names: {len(report.unmatched)} left, {what}")
    assert not wrong, "\n".join(wrong)


def test_a_file_of_another_family_that_does_not_fit_is_refused_alike_by_both_ways(tmp_path: Path) -> None:
    layout, table = _layout("flux1_dev_comfy")
    file = _file({key: tuple(shape) for key, (_, shape) in read_list("wan_t2v_kohya_musubi").items()})
    report = inspect_file(file, layout)
    with pytest.raises(FamilyMismatch) as refused:
        load_lora(file, layout, table)
    assert report.as_json()["refused"] == str(refused.value)
