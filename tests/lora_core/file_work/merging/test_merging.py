"""A merged file changes the model as the files together do, whatever their dialects, algorithms, ranks and alphas."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import list_targets, open_lora
from lora_pack.lora_core.errors import BadSetting, DifferentFamilies, FileNotWritten, NotMergeable
from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
from lora_pack.lora_core.file_work.merging.layer_deltas import MergeSettings
from lora_pack.lora_core.file_work.merging.merge_files import LayerStrengths, MergeOrder, merge_files
from lora_pack.lora_core.file_work.merging.methods import METHODS
from lora_pack.lora_core.file_work.sources import Source
from safetensors.torch import load_file

from ...adapter_files import write_adapter
from ..merge_files_for_tests import (
    BLOCK,
    CONV,
    NORM,
    PROJ,
    QKV,
    SHAPES,
    TEXT,
    WIDTH,
    assert_near,
    deltas,
    kohya,
    layout,
    lora_file,
    merge,
    normal,
    pair,
    split_file,
    weighted_sum,
    written,
)

DIALECTS = ("kohya", "comfy", "diffusers", "peft")


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.8, -0.5), (0.5, 0.0)])
def test_concat_is_the_weighted_sum(tmp_path: Path, strengths: tuple[float, float]) -> None:
    """sd-scripts' concat gives half of what was asked for at K = 2, a quarter at ratio 0.5."""
    a = lora_file(tmp_path / "a.safetensors", 1, rank=3, alpha=1.0)
    b = lora_file(tmp_path / "b.safetensors", 2, rank=2, alpha=7.0)
    files = dict(zip((a, b), strengths, strict=True))
    merged = merge(files)
    assert_near(written(merged, tmp_path / "out.safetensors"), weighted_sum(files))
    assert merged.error < 1e-6
    assert {layer.rank for layer in merged.layers} == {5 if all(strengths) else 3}


def test_concat_of_four_is_the_sum(tmp_path: Path) -> None:
    files = {lora_file(tmp_path / f"{n}.safetensors", n, rank=2, alpha=1.0): 1.0 for n in range(4)}
    assert_near(written(merge(files), tmp_path / "out.safetensors"), weighted_sum(files))


@pytest.mark.parametrize("to", DIALECTS)
def test_split_and_fused_layers_merge_in_every_dialect(tmp_path: Path, to: str) -> None:
    a = write_adapter(tmp_path / "a.safetensors", pair(kohya(QKV), (3 * WIDTH, WIDTH), 3, 1, alpha=2.0))
    b = split_file(tmp_path / "b.safetensors", 5, {"to_q": 2, "to_v": 1})
    files = {a: 0.8, b: -0.5}
    folder = tmp_path / "there"
    folder.mkdir()
    merged = merge(files, dialect=to)
    assert_near(written(merged, folder / "adapter_model.safetensors"), weighted_sum(files))
    ranks = {layer.name: layer.rank for layer in merged.layers}
    whole = f"diffusion_model.{QKV}"
    if to in ("diffusers", "peft"):
        assert ranks == {f"{whole}[0:12]": 5, f"{whole}[12:24]": 3, f"{whole}[24:36]": 4}
    else:
        assert ranks == {whole: 6}


def test_rows_that_share_a_down_are_joined_without_more_rank(tmp_path: Path) -> None:
    a = write_adapter(tmp_path / "a.safetensors", pair(kohya(QKV), (3 * WIDTH, WIDTH), 3, 1))
    split = merge({a: 1.0}, dialect="diffusers")
    split.write(tmp_path / "b.safetensors")
    joined = merge({tmp_path / "b.safetensors": 1.0}, dialect="kohya")
    assert [layer.rank for layer in joined.layers] == [3]
    assert_near(written(joined, tmp_path / "c.safetensors"), deltas(a))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_svd_is_the_nearest_matrix_of_its_rank(tmp_path: Path, rank: int) -> None:
    """peft up to 0.20 multiplies by the scale twice; sd-scripts clamps 1 % of the entries, an error of 11 %."""
    a = lora_file(tmp_path / "a.safetensors", 1, rank=4, alpha=1.0)
    b = lora_file(tmp_path / "b.safetensors", 2, rank=2, alpha=2.0)
    files = {a: 0.7, b: -1.2}
    merged = merge(files, "svd", limits=RankLimits(rank=rank))
    wanted = {}
    for name, delta in weighted_sum(files).items():
        u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
        wanted[name] = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(delta.shape)
    assert_near(written(merged, tmp_path / "out.safetensors"), wanted)
    for layer in merged.layers:
        total = weighted_sum(files)[f"{layer.name}.weight"]
        missing = (total - wanted[f"{layer.name}.weight"]).norm() / total.norm()
        assert abs(layer.relative_error - missing) < 1e-6
        assert abs((1 - layer.kept_energy) ** 0.5 - missing) < 1e-6


def test_energy_and_error_keep_the_smallest_rank_that_reaches_them_and_no_more(tmp_path: Path) -> None:
    """The dynamic modes of sd-scripts' resize keep one rank more than was asked for."""
    a = lora_file(tmp_path / "a.safetensors", 1, rank=6)
    for limits in (RankLimits(energy=0.9), RankLimits(error=0.1**0.5)):
        for layer in merge({a: 1.0}, "svd", limits=limits).layers:
            values = torch.linalg.svdvals(deltas(a)[f"{layer.name}.weight"].flatten(1)).square()
            shares = values.cumsum(0) / values.sum()
            assert shares[layer.rank - 1] >= 0.9 > (shares[layer.rank - 2] if layer.rank > 1 else 0.0)


def test_a_rank_above_what_is_there_keeps_what_is_there_and_says_so(tmp_path: Path) -> None:
    a = lora_file(tmp_path / "a.safetensors", 1, rank=2)
    merged = merge({a: 1.0}, "svd", limits=RankLimits(rank=64))
    assert {layer.rank for layer in merged.layers} == {2}
    assert any("a rank below 64" in note for note in merged.notes)
    assert_near(written(merged, tmp_path / "out.safetensors"), deltas(a))


ALGORITHMS = {
    "loha": {
        f"{kohya(PROJ)}.hada_w1_a": normal(WIDTH, 2, seed=1),
        f"{kohya(PROJ)}.hada_w1_b": normal(2, WIDTH, seed=2),
        f"{kohya(PROJ)}.hada_w2_a": normal(WIDTH, 2, seed=3),
        f"{kohya(PROJ)}.hada_w2_b": normal(2, WIDTH, seed=4),
        f"{kohya(PROJ)}.alpha": torch.tensor(1.0),
    },
    "lokr": {
        f"{kohya(PROJ)}.lokr_w1": normal(3, 2, seed=1),
        f"{kohya(PROJ)}.lokr_w2_a": normal(4, 2, seed=2),
        f"{kohya(PROJ)}.lokr_w2_b": normal(2, 6, seed=3),
        f"{kohya(PROJ)}.alpha": torch.tensor(1.0),
    },
    "lokr whole": {
        f"{kohya(QKV)}.lokr_w1": normal(2, 3, seed=1),
        f"{kohya(QKV)}.lokr_w2": normal(18, 4, seed=2),
    },
    "lokr on a convolution": {
        f"{kohya(CONV)}.lokr_w1": normal(3, 2, seed=1),
        f"{kohya(CONV)}.lokr_w2": normal(4, 5, 3, 3, seed=2),
    },
    "loha with middle tensors": {
        f"{kohya(CONV)}.hada_w1_a": normal(2, WIDTH, seed=1),
        f"{kohya(CONV)}.hada_w1_b": normal(2, 10, seed=2),
        f"{kohya(CONV)}.hada_t1": normal(2, 2, 3, 3, seed=3),
        f"{kohya(CONV)}.hada_w2_a": normal(2, WIDTH, seed=4),
        f"{kohya(CONV)}.hada_w2_b": normal(2, 10, seed=5),
        f"{kohya(CONV)}.hada_t2": normal(2, 2, 3, 3, seed=6),
    },
    "tucker": {
        f"{kohya(CONV)}.lora_down.weight": normal(2, 10, 1, 1, seed=1),
        f"{kohya(CONV)}.lora_mid.weight": normal(2, 2, 3, 3, seed=2),
        f"{kohya(CONV)}.lora_up.weight": normal(WIDTH, 2, 1, 1, seed=3),
        f"{kohya(CONV)}.alpha": torch.tensor(3.0),
    },
    "full difference": {
        f"{kohya(PROJ)}.diff": normal(WIDTH, WIDTH, seed=1),
        f"{kohya(PROJ)}.diff_b": normal(WIDTH, seed=2),
    },
    "norm": {f"{kohya(NORM)}.w_norm": normal(WIDTH, seed=1)},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_algorithms_become_a_lora_exactly(tmp_path: Path, algorithm: str) -> None:
    a = write_adapter(tmp_path / "a.safetensors", ALGORITHMS[algorithm])
    b = lora_file(tmp_path / "b.safetensors", 9, alpha=2.0)
    for method in ("concat", "svd"):
        files = {a: -0.7, b: 1.3}
        merged = merge(files, method)
        assert_near(written(merged, tmp_path / f"{method}.safetensors"), weighted_sum(files))
        assert merged.error < 1e-6


def test_changes_that_depend_on_the_weight_are_named_and_need_the_checkpoint(tmp_path: Path) -> None:
    tensors = pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1) | {f"{kohya(PROJ)}.dora_scale": normal(WIDTH, 1, seed=4).abs()}
    a = write_adapter(tmp_path / "a.safetensors", tensors)
    b = lora_file(tmp_path / "b.safetensors", 9)
    with pytest.raises(NotMergeable, match=r"img_attn\.proj.*a\.safetensors.*DoRA.*--model"):
        merge({a: 1.0, b: 1.0})
    weight = normal(WIDTH, WIDTH, seed=8)
    sources = [Source(open_lora(a), 0.5), Source(open_lora(b), 2.0)]
    merged = merge_files(sources, MergeOrder(), layout(), read={f"diffusion_model.{PROJ}.weight": weight}.__getitem__)
    name = f"diffusion_model.{PROJ}.weight"
    base = deltas(write_adapter(tmp_path / "c.safetensors", pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1)))[name]
    changed = weight.double() + base
    magnitude = tensors[f"{kohya(PROJ)}.dora_scale"].double()
    dora = magnitude * changed / changed.norm(dim=1, keepdim=True) - weight.double()
    found = written(merged, tmp_path / "out.safetensors")[name]
    assert (found - (0.5 * dora + 2.0 * deltas(b)[name])).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_two_gauges_of_the_same_loras_give_the_same_merge(tmp_path: Path, method: str) -> None:
    """Merging factor by factor, as peft's linear and ties do, differs by 100 % between two gauges."""
    plain, turned = [], []
    for number in range(2):
        down, up = normal(3, WIDTH, seed=number).double(), normal(WIDTH, 3, seed=number + 50).double()
        gauge = normal(3, 3, seed=number + 99).double() + 2 * torch.eye(3)
        for kept, (u, d) in ((plain, (up, down)), (turned, (up @ gauge, torch.linalg.inv(gauge) @ down))):
            tensors = {f"{kohya(PROJ)}.lora_down.weight": d, f"{kohya(PROJ)}.lora_up.weight": u}
            kept.append(write_adapter(tmp_path / f"{number}{kept is plain}.safetensors", tensors))
    results = []
    for files in (plain, turned):
        merged = merge(dict(zip(files, (0.9, -0.6), strict=True)), method, dtype=torch.float64)
        results.append(written(merged, tmp_path / f"out{len(results)}.safetensors"))
    assert_near(*results, tolerance=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_lora_alone_and_a_repeated_run(tmp_path: Path, method: str) -> None:
    a, b = lora_file(tmp_path / "a.safetensors", 1), lora_file(tmp_path / "b.safetensors", 2)
    settings = MergeSettings(density=1.0, spread=0.0)
    files = {a: 0.5} if METHODS[method].files is None else {a: 0.5, b: 0.0}
    assert_near(written(merge(files, method, settings=settings), tmp_path / "1.safetensors"), weighted_sum({a: 0.5}))
    merge({a: 0.5, b: 2.0}, method).write(tmp_path / "2.safetensors")
    merge({a: 0.5, b: 2.0}, method).write(tmp_path / "3.safetensors")
    assert (tmp_path / "2.safetensors").read_bytes() == (tmp_path / "3.safetensors").read_bytes()


def test_strengths_of_layers_multiply_those_of_the_files(tmp_path: Path) -> None:
    a, b = lora_file(tmp_path / "a.safetensors", 1), lora_file(tmp_path / "b.safetensors", 2)
    rules = [LayerStrengths("*double_blocks.0.*", (2.0, 0.0)), LayerStrengths("clip_l.*", (0.5,))]
    found = written(merge({a: 1.0, b: -1.0}, layers=rules), tmp_path / "out.safetensors")
    one, two = deltas(a), deltas(b)
    wanted = {name: one[name] - two[name] for name in one}
    for name in one:
        if "double_blocks.0" in name:
            wanted[name] = 2 * one[name]
        if name.startswith("clip_l"):
            wanted[name] = 0.5 * one[name] - 0.5 * two[name]
    assert_near(found, wanted)
    with pytest.raises(BadSetting, match="nowhere"):
        merge({a: 1.0}, layers=[LayerStrengths("nowhere*", (1.0,))])
    with pytest.raises(BadSetting, match="it has 2"):
        merge({a: 1.0}, layers=[LayerStrengths("*", (1.0, 2.0))])


def test_halves_keep_their_digits_where_alpha_is_small(tmp_path: Path) -> None:
    """A scale of 1/64 folded into one factor leaves the range of float16; the lengths are evened out instead."""
    tensors = pair(kohya(PROJ), (WIDTH, WIDTH), 4, 1)
    tensors = {key: (t * (1e-4 if "up" in key else 30.0)).half() for key, t in tensors.items()}
    a = write_adapter(tmp_path / "a.safetensors", tensors | {f"{kohya(PROJ)}.alpha": torch.tensor(0.0625)})
    merged = merge({a: 0.01})
    assert merged.error < 1e-3
    assert {t.dtype for key, t in merged.content.tensors.items() if "alpha" not in key} == {torch.float16}
    with pytest.raises(NotMergeable, match="store them as fp32"):
        merge({a: 1e20})


def test_the_metadata_say_how_the_file_came_about(tmp_path: Path) -> None:
    tensors = pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1)
    common = {"ss_base_model_version": "flux1", "sshs_model_hash": "ab" * 32, "ss_network_dim": "2"}
    a = write_adapter(tmp_path / "a.safetensors", tensors, common | {"ss_output_name": "a"})
    b = write_adapter(tmp_path / "b.safetensors", tensors, common | {"ss_output_name": "b"})
    metadata = merge({a: 1.0, b: 0.25}, "ties", settings=MergeSettings(density=0.3)).content.metadata
    assert metadata["ss_base_model_version"] == "flux1"
    assert not metadata.keys() & {"ss_output_name", "sshs_model_hash", "ss_network_dim"}
    assert json.loads(metadata["lora_loom.made_by"]) == {
        "by": "merge",
        "method": "ties",
        "density": 0.3,
        "sources": [{"file": "a.safetensors", "strength": 1.0}, {"file": "b.safetensors", "strength": 0.25}],
    }


def test_bad_input_is_refused_with_every_offender(tmp_path: Path) -> None:
    a = lora_file(tmp_path / "a.safetensors", 1)
    good = load_file(a)
    hole = dict(good) | {f"{kohya(PROJ)}.lora_up.weight": torch.full((WIDTH, 3), float("nan"))}
    with pytest.raises(NotMergeable, match=f"nan.safetensors.*{kohya(PROJ)}.*NaN"):
        merge({a: 1.0, write_adapter(tmp_path / "nan.safetensors", hole): 1.0})
    odd = dict(good) | {"lora_unet_nowhere.lora_up.weight": torch.zeros(1), "what.ever": torch.zeros(1)}
    with pytest.raises(NotMergeable, match=r"what\.ever.*lora_unet_nowhere"):
        merge({a: 1.0, write_adapter(tmp_path / "odd.safetensors", odd): 1.0})
    for strength, message in ((0.0, "every strength is 0"), (float("inf"), "finite")):
        with pytest.raises(BadSetting, match=message):
            merge({a: strength})
    with pytest.raises(BadSetting, match="2 files"):
        merge({a: 1.0}, "slerp")
    with pytest.raises(BadSetting, match="keeps every rank"):
        merge({a: 1.0}, "concat", limits=RankLimits(rank=2))
    with pytest.raises(BadSetting, match="energy"):
        RankLimits(energy=1.5)
    with pytest.raises(NotMergeable, match="no words for diff_bias"):
        merge({write_adapter(tmp_path / "d.safetensors", ALGORITHMS["full difference"]): 1.0}, dialect="diffusers")


def test_a_large_layer_without_small_factors_is_sketched_and_its_error_told(tmp_path: Path) -> None:
    width = 560
    model = list_targets({"diffusion_model.double_blocks.0.img_attn.proj.weight": (width, width)})
    signal = normal(width, 3, seed=1) @ normal(3, width, seed=2)
    difference = signal + 0.1 * normal(width, width, seed=3)
    a = write_adapter(tmp_path / "a.safetensors", {f"{kohya(PROJ)}.diff": difference})
    for order in (
        MergeOrder(method="svd", limits=RankLimits(rank=3)),
        MergeOrder(method="svd", size=4 * 3 * 2 * width),
    ):
        merged = merge_files([Source(open_lora(a), -2.0)], order, model)
        merged.write(tmp_path / "out.safetensors", replace=True)
        (found,) = deltas(tmp_path / "out.safetensors", model).values()
        wanted = -2.0 * difference.double()
        u, s, v = torch.linalg.svd(wanted)
        (layer,) = merged.layers
        assert layer.rank == 3
        assert (found - (u[:, :3] * s[:3]) @ v[:3]).norm() < 1e-3 * wanted.norm()
        assert abs(float((found - wanted).norm() / wanted.norm()) - layer.relative_error) < 1e-6
        assert abs(float(s[:3].square().sum() / s.square().sum()) - layer.kept_energy) < 1e-6


def test_parameters_that_are_no_layers_weight_are_merged_whole(tmp_path: Path) -> None:
    """Such as Wan's modulations, which have three sides and yet no down and up."""
    model = list_targets({"diffusion_model.blocks.0.modulation": (1, 6, 4)})
    key = "diffusion_model.blocks.0.modulation.diff_m"
    one, other = normal(1, 6, 4, seed=1), normal(1, 6, 4, seed=2)
    files = [write_adapter(tmp_path / f"{n}.safetensors", {key: t}) for n, t in enumerate((one, other))]
    sources = [Source(open_lora(files[0]), 2.0), Source(open_lora(files[1]), -1.0)]
    merged = merge_files(sources, MergeOrder(dialect="comfy"), model)
    assert merged.content.tensors.keys() == {key}
    merged.write(tmp_path / "out.safetensors")
    found = deltas(tmp_path / "out.safetensors", model)
    assert_near(found, {"diffusion_model.blocks.0.modulation": (2 * one - other).double()})


def test_files_of_two_families_are_not_merged(tmp_path: Path) -> None:
    flux = write_adapter(tmp_path / "flux.safetensors", pair("lora_unet_double_blocks_0_img_attn_proj", (4, 4), 2, 1))
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    sdxl = write_adapter(tmp_path / "sdxl.safetensors", pair(name, (640, 2048), 2, 1))
    with pytest.raises(DifferentFamilies, match=r"flux\.safetensors is for Flux.*sdxl\.safetensors is for SDXL"):
        merge_files([Source(open_lora(flux)), Source(open_lora(sdxl))], MergeOrder())


def test_files_without_a_common_layer_stand_beside_each_other_and_it_is_told(tmp_path: Path) -> None:
    a = write_adapter(tmp_path / "a.safetensors", pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1))
    b = write_adapter(tmp_path / "b.safetensors", pair(kohya(TEXT, "te"), (16, WIDTH), 2, 1))
    merged = merge({a: 1.0, b: 1.0})
    assert any("no layer in common" in note for note in merged.notes)
    assert_near(written(merged, tmp_path / "out.safetensors"), weighted_sum({a: 1.0, b: 1.0}))


def test_what_cancels_out_is_left_out_and_nothing_at_all_is_refused(tmp_path: Path) -> None:
    a, b = lora_file(tmp_path / "a.safetensors", 1), tmp_path / "b.safetensors"
    tensors = load_file(a)
    write_adapter(b, tensors | {f"{kohya(PROJ)}.lora_up.weight": tensors[f"{kohya(PROJ)}.lora_up.weight"] * 2})
    merged = merge({a: 1.0, b: -1.0}, "svd")
    assert [layer.name for layer in merged.layers] == [f"diffusion_model.{PROJ}"]
    assert any("3 layers are not changed" in note for note in merged.notes)
    write_adapter(b, tensors)
    with pytest.raises(NotMergeable, match="nothing to write"):
        merge({a: 1.0, b: -1.0}, "svd")


def test_a_file_is_replaced_only_on_request_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = lora_file(tmp_path / "a.safetensors", 1)
    merged, before = merge({a: 2.0}), a.read_bytes()
    with pytest.raises(FileNotWritten, match="--force"):
        merged.write(a)
    with pytest.raises(FileNotWritten, match="not there"):
        merged.write(tmp_path / "nowhere" / "out.safetensors")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full_disk)
        with pytest.raises(FileNotWritten, match="No space left"):
            merged.write(a, replace=True)
    assert a.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [a.name]
    merged.write(a, replace=True)
    assert a.read_bytes() != before


def test_every_layer_is_told_to_the_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    source = Source(open_lora(lora_file(tmp_path / "a.safetensors", 1)))
    merge_files([source], MergeOrder(), layout(), progress=lambda *step: told.append(step))
    assert [(done, total) for done, total, _ in told] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(SHAPES) > 4 and BLOCK


def test_pefts_two_files_are_replaced_both_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step fails, the folder holds the old pair; whichever a kill ends, never files of two makes."""
    one, other = (merge({lora_file(tmp_path / f"{n}.safetensors", n, rank=n): 1.0}, dialect="peft") for n in (2, 3))
    folder = tmp_path / "peft"
    folder.mkdir()
    names = "adapter_model.safetensors", "adapter_config.json"
    one.write(folder / names[0])
    old = {name: (folder / name).read_bytes() for name in names}
    assert (folder / names[1]).exists()
    real, left = Path.replace, 0

    def fail(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    for failing_at in (1, 2, 3, 4):
        left = failing_at
        with pytest.raises(FileNotWritten, match="No space left"):
            other.write(folder / names[0], replace=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == old
    monkeypatch.setattr(Path, "replace", real)
    other.write(folder / names[0], replace=True)
    new = {name: (folder / name).read_bytes() for name in names}
    assert set(new) == {path.name for path in folder.iterdir()} and new[names[0]] != old[names[0]]
    for killed_at in (1, 2, 3, 4):
        shutil.rmtree(folder)
        folder.mkdir()
        one.write(folder / names[0])
        left = _folder_after_a_kill(killed_at, lambda: other.write(folder / names[0], replace=True), monkeypatch)
        pair = {name: left.get(str(folder / name)) for name in names}
        assert pair[names[0]] is None or pair in (old, new), killed_at


def _folder_after_a_kill(step: int, write: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Path -> bytes of the folder as the process leaves it that ends right before one of its replacements."""
    real, steps = Path.replace, 0
    left: dict[str, bytes] = {}

    def watch(self: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == step:
            left.update({str(path): path.read_bytes() for path in target.parent.iterdir()})
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", watch)
        write()
    return left
