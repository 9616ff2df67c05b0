"""Extracting an adapter from two checkpoints, and baking adapters into one: streamed, measured, and back again."""

import json
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import list_targets, open_lora
from lora_pack.lora_core.errors import BadSetting, DifferentFamilies, FileNotWritten, NotMergeable
from lora_pack.lora_core.file_work.baking import Baking
from lora_pack.lora_core.file_work.deltas.factored import nearest
from lora_pack.lora_core.file_work.deltas.randomised_svd import leading_spectrum
from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
from lora_pack.lora_core.file_work.extraction import extract
from lora_pack.lora_core.file_work.sources import Source
from lora_pack.lora_core.loading.checkpoint import Checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..adapter_files import write_adapter
from .merge_files_for_tests import (
    NORM,
    PROJ,
    QKV,
    SHAPES,
    TEXT,
    WIDTH,
    deltas,
    kohya,
    lora_file,
    normal,
    pair,
    split_file,
)

VAE = "first_stage_model.decoder.conv_in.weight"


def checkpoint(path: Path, dtype: torch.dtype = torch.float32, **changes: Tensor) -> Path:
    """A checkpoint of the small model, with a VAE that no adapter is for."""
    shapes = {**SHAPES, VAE: (4, 4)}
    tensors = {name: (normal(*shape, seed=n) * 0.05).to(dtype) for n, (name, shape) in enumerate(shapes.items())}
    save_file(tensors | changes, path)
    return path


def changed(path: Path, base: Path, deltas_of: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    tensors = load_file(base)
    save_file({k: (t.double() + deltas_of.get(k, 0.0)).to(dtype) for k, t in tensors.items()}, path)
    return path


def bake(base: Path, files: dict[Path, float], out: Path) -> Baking:
    baking = Baking(Checkpoint.open(base), [Source(open_lora(file), s) for file, s in files.items()])
    baking.write(out, replace=True)
    return baking


@pytest.mark.parametrize("to", ["kohya", "diffusers", "comfy"])
def test_a_lora_that_was_baked_in_is_extracted_again(tmp_path: Path, to: str) -> None:
    a = lora_file(tmp_path / "a.safetensors", 1, rank=3)
    base = checkpoint(tmp_path / "base.safetensors")
    bake(base, {a: 0.5}, tmp_path / "tuned.safetensors")
    model = (Checkpoint.open(base), Checkpoint.open(tmp_path / "tuned.safetensors"))
    made = extract(*model, RankLimits(rank=3), dialect=to, dtype=torch.float32)
    made.write(tmp_path / "out.safetensors")
    assert made.error < 1e-5
    found, wanted = deltas(tmp_path / "out.safetensors"), deltas(a)
    for name, delta in wanted.items():
        assert (found[name] - 0.5 * delta).norm() < 1e-5 * delta.norm(), name


def test_the_error_that_is_told_is_the_error_there_is(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    noise = {f"diffusion_model.{PROJ}.weight": normal(WIDTH, WIDTH, seed=77).double()}
    tuned = changed(tmp_path / "tuned.safetensors", base, noise)
    made = extract(Checkpoint.open(base), Checkpoint.open(tuned), RankLimits(energy=0.8))
    made.write(tmp_path / "out.safetensors")
    (layer,) = made.layers
    (found,) = deltas(tmp_path / "out.safetensors").values()
    difference = load_file(tuned)[layer.name + ".weight"].double() - load_file(base)[layer.name + ".weight"].double()
    assert abs((found - difference).norm() / difference.norm() - layer.relative_error) < 1e-5
    values = torch.linalg.svdvals(difference).square()
    shares = values.cumsum(0) / values.sum()
    assert shares[layer.rank - 1] >= 0.8 > shares[layer.rank - 2]


@pytest.mark.parametrize("limits", [RankLimits(rank=24), RankLimits(energy=0.9), RankLimits(error=0.2)])
def test_a_sketch_is_hardly_worse_than_the_best_and_its_certificate_is_exact(limits: RankLimits) -> None:
    left, right = torch.linalg.qr(normal(400, 320, seed=1))[0], torch.linalg.qr(normal(300, 300, seed=2))[0]
    values = torch.arange(1, 301).double().pow(-1.0)
    matrix = ((left[:, :300].double() * values) @ right.T.double()).float()
    found = leading_spectrum(matrix, limits, torch.Generator().manual_seed(0))
    shape = (matrix.shape[0], matrix.shape[1])
    rank = limits.keep(found.spectrum.values.double(), shape, found.missing)
    best = limits.keep(values, shape)
    assert not found.is_whole
    assert best <= rank <= best + 1
    kept = nearest(found.spectrum, rank)
    error = (matrix - kept.up @ kept.down).double().norm()
    told = (found.missing + found.spectrum.values[rank:].double().square().sum()).sqrt()
    assert abs(error - told) < 1e-5
    assert error < 1.003 * values[rank:].square().sum().sqrt()


def test_biases_and_norms_come_along_where_the_dialect_has_words(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    change = {
        f"diffusion_model.{PROJ}.bias": normal(WIDTH, seed=5).double(),
        f"diffusion_model.{NORM}.weight": normal(WIDTH, seed=6).double(),
        f"diffusion_model.{PROJ}.weight": normal(WIDTH, 1, seed=7).double() * normal(1, WIDTH, seed=8),
    }
    tuned = changed(tmp_path / "tuned.safetensors", base, change)
    model = (Checkpoint.open(base), Checkpoint.open(tuned))
    made = extract(*model, RankLimits(rank=1), dtype=torch.float32)
    made.write(tmp_path / "out.safetensors")
    found = deltas(tmp_path / "out.safetensors")
    assert found.keys() == change.keys()
    assert all((found[name] - delta).norm() < 1e-5 * delta.norm() for name, delta in change.items())
    plain = extract(*model, RankLimits(rank=1), dialect="diffusers")
    assert len(plain.content.tensors) == 2
    assert any("2 changed biases and norms were left out" in note for note in plain.notes)


def test_checkpoints_may_carry_other_prefixes_and_dtypes_and_what_is_elsewhere_is_told(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    name = f"diffusion_model.{PROJ}.weight"
    scaled = f"diffusion_model.{QKV}"
    tensors = load_file(base)
    stored = (tensors[f"{scaled}.weight"] / 0.01).to(torch.float8_e4m3fn)
    tensors |= {name: tensors[name] + 1.0, VAE: tensors[VAE] + 1.0}
    tensors |= {f"{scaled}.weight": stored, f"{scaled}.scale_weight": torch.tensor(0.01)}
    tuned = tmp_path / "tuned.safetensors"
    save_file({key.replace("diffusion_model.", "model.diffusion_model."): t for key, t in tensors.items()}, tuned)
    made = extract(Checkpoint.open(base), Checkpoint.open(tuned), RankLimits(rank=12))
    ranks = {layer.name: layer for layer in made.layers}
    assert ranks.keys() == {f"diffusion_model.{PROJ}", scaled}
    assert abs(ranks[f"diffusion_model.{PROJ}"].norm - 12.0) < 1e-4
    assert ranks[scaled].norm < 0.05 * tensors_norm(base, f"{scaled}.weight")  # the rounding of fp8 alone
    assert any("outside of the layers" in note and VAE in note for note in made.notes)


def tensors_norm(path: Path, name: str) -> float:
    return float(load_file(path)[name].norm())


def test_rounding_noise_is_told_and_cut_on_request(tmp_path: Path) -> None:
    width = 300
    shapes = {"double_blocks.0.img_attn.proj.weight": (width, width)}
    weight = normal(width, width, seed=1) * 0.05
    signal = 0.02 * normal(width, 2, seed=2) @ normal(2, width, seed=3)
    for name, tensor in (("base", weight), ("tuned", weight + signal)):
        save_file({key: tensor.bfloat16() for key in shapes}, tmp_path / f"{name}.safetensors")
    model = [Checkpoint.open(tmp_path / f"{name}.safetensors") for name in ("base", "tuned")]
    assert list_targets(shapes).family.name == "Flux.1"
    told = extract(*model, RankLimits(rank=16))
    assert told.layers[0].rank == 16
    assert any("14 of the singular values" in note for note in told.notes)
    assert extract(*model, RankLimits(rank=16), cut_noise=True).layers[0].rank == 2


def test_bad_checkpoints_are_refused_with_every_offender(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    hole = torch.full((WIDTH, WIDTH), float("nan"))
    bad = checkpoint(tmp_path / "bad.safetensors", **{f"diffusion_model.{PROJ}.weight": hole})
    with pytest.raises(NotMergeable, match=rf"{PROJ}.*NaN"):
        extract(Checkpoint.open(base), Checkpoint.open(bad), RankLimits(rank=1))
    wide = checkpoint(tmp_path / "wide.safetensors", **{f"diffusion_model.{PROJ}.weight": torch.zeros(WIDTH, 64)})
    with pytest.raises(NotMergeable, match=rf"{PROJ}.*\[12, 12\] there, \[12, 64\] here"):
        extract(Checkpoint.open(base), Checkpoint.open(wide), RankLimits(rank=1))
    with pytest.raises(NotMergeable, match="nothing to write"):
        extract(Checkpoint.open(base), Checkpoint.open(base), RankLimits(rank=1))
    with pytest.raises(BadSetting, match="how far"):
        extract(Checkpoint.open(base), Checkpoint.open(base), RankLimits())
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: torch.zeros(640, 2048)}, tmp_path / "sdxl.safetensors")
    with pytest.raises(DifferentFamilies, match="SDXL"):
        extract(Checkpoint.open(base), Checkpoint.open(tmp_path / "sdxl.safetensors"), RankLimits(rank=1))


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.06), (torch.float8_e5m2, 1.5)]
)
def test_baking_adds_every_adapter_and_rounds_once(tmp_path: Path, dtype: torch.dtype, most: float) -> None:
    """SD.Next and A1111 add one LoRA after another into the low-precision weight: a rounding for each."""
    files = {lora_file(tmp_path / f"{n}.safetensors", n, alpha=0.05): 0.5 - n for n in range(3)}
    files[split_file(tmp_path / "s.safetensors", 9, {"to_q": 2, "to_v": 1})] = 0.01
    base = checkpoint(tmp_path / "base.safetensors", dtype)
    out = tmp_path / "out.safetensors"
    baking = bake(base, files, out)
    before, after = load_file(base), load_file(out)
    total = {
        name: sum(s * deltas(f).get(name, torch.zeros_like(w, dtype=torch.float64)) for f, s in files.items())
        for name, w in before.items()
    }
    for name, weight in before.items():
        wanted = weight.double() + total[name]
        exact = wanted.to(dtype)
        assert after[name].dtype == dtype
        near = (after[name].double() - exact.double()).abs() > 1e-6
        assert near.float().mean() < 0.02, name  # the last bit, where float32 deltas fall on the other side
    report = baking.check(Checkpoint.open(out))
    assert report.kept == 4 and len(report.changed) == 4
    assert all(one.error < most for one in report.changed)


def test_weak_changes_in_fp8_are_told(tmp_path: Path) -> None:
    """A change of 1 % of the weight is gone when it is rounded to fp8 to the nearest."""
    base = checkpoint(tmp_path / "base.safetensors", torch.float8_e4m3fn)
    a = lora_file(tmp_path / "a.safetensors", 1, alpha=3e-5)
    report = Baking(Checkpoint.open(base), [Source(open_lora(a))]).write(tmp_path / "out.safetensors")
    assert all(one.gain < 0.1 for one in report.changed)
    assert any("4 parameters keep less than 0.9" in line for line in report.lines())


def test_scaled_fp8_weights_are_changed_as_the_numbers_they_stand_for(tmp_path: Path) -> None:
    path = f"diffusion_model.{PROJ}"
    weight = normal(WIDTH, WIDTH, seed=3) * 0.05
    stored = {f"{path}.weight": (weight / 1e-3).to(torch.float8_e4m3fn), f"{path}.scale_weight": torch.tensor(1e-3)}
    base = checkpoint(tmp_path / "base.safetensors", torch.bfloat16, **stored)
    a = write_adapter(tmp_path / "a.safetensors", pair(kohya(PROJ), (WIDTH, WIDTH), 2, 1, alpha=0.1))
    bake(base, {a: 1.0}, tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    found = out[f"{path}.weight"].float() * out[f"{path}.scale_weight"]
    wanted = stored[f"{path}.weight"].float() * 1e-3 + deltas(a)[f"{path}.weight"]
    assert ((found - wanted).abs() <= 0.07 * wanted.abs() + 1e-4).all()
    baking = Baking(Checkpoint.open(base), [Source(open_lora(a), 100.0)])
    notes = baking.write(tmp_path / "large.safetensors").notes
    assert any("larger than torch.float8_e4m3fn holds" in note for note in notes)


def test_the_reverse_check_names_what_went_astray(tmp_path: Path) -> None:
    base, a = checkpoint(tmp_path / "base.safetensors"), lora_file(tmp_path / "a.safetensors", 1)
    out = tmp_path / "out.safetensors"
    baking = bake(base, {a: 1.0}, out)
    tensors = load_file(out)
    save_file(tensors | {VAE: tensors[VAE] + 1}, out)
    with pytest.raises(NotMergeable, match=VAE):
        baking.check(Checkpoint.open(out))


@pytest.mark.parametrize("before", ["text_encoders.clip_l.transformer.", "cond_stage_model.transformer."])
@pytest.mark.parametrize("key", [f"text_encoders.clip_l.transformer.{TEXT}", kohya(TEXT, "te")])
def test_text_encoders_are_baked_whatever_a_checkpoint_calls_them(tmp_path: Path, before: str, key: str) -> None:
    model = {f"{before}{TEXT}.weight": torch.zeros(16, WIDTH), f"diffusion_model.{PROJ}.weight": torch.zeros(4, 4)}
    save_file(model, tmp_path / "base.safetensors")
    a = write_adapter(tmp_path / "a.safetensors", pair(key, (16, WIDTH), 2, 1))
    bake(tmp_path / "base.safetensors", {a: 2.0}, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")[f"{before}{TEXT}.weight"]
    assert (found - 2 * deltas(a)[f"clip_l.transformer.{TEXT}.weight"]).abs().max() < 1e-5


OPEN_CLIP = "conditioner.embedders.1.model."
BLOCKS = "transformer.resblocks.0."
CLIP_G = "clip_g.transformer.text_model.encoder.layers.0."


def open_clip_checkpoint(path: Path) -> Path:
    """A checkpoint whose second text encoder has OpenCLIP's names, q, k and v in one."""
    shapes = {
        f"diffusion_model.{PROJ}.weight": (WIDTH, WIDTH),
        f"{OPEN_CLIP}{BLOCKS}attn.in_proj_weight": (3 * WIDTH, WIDTH),
        f"{OPEN_CLIP}{BLOCKS}attn.in_proj_bias": (3 * WIDTH,),
        f"{OPEN_CLIP}{BLOCKS}attn.out_proj.weight": (WIDTH, WIDTH),
        f"{OPEN_CLIP}{BLOCKS}attn.out_proj.bias": (WIDTH,),
        f"{OPEN_CLIP}{BLOCKS}mlp.c_fc.weight": (16, WIDTH),
        f"{OPEN_CLIP}{BLOCKS}mlp.c_fc.bias": (16,),
        f"{OPEN_CLIP}positional_embedding": (7, WIDTH),
        f"{OPEN_CLIP}text_projection": (WIDTH, WIDTH),
    }
    save_file({name: normal(*shape, seed=n) * 0.05 for n, (name, shape) in enumerate(shapes.items())}, path)
    return path


def open_clip_lora(path: Path) -> Path:
    """A LoRA on its v and its first feed-forward layer, in ComfyUI's names."""
    tensors: dict[str, Tensor] = {}
    for seed, (name, out) in enumerate({"self_attn.v_proj": WIDTH, "mlp.fc1": 16}.items()):
        key = f"text_encoders.{CLIP_G}{name}"
        tensors[f"{key}.lora_A.weight"] = normal(2, WIDTH, seed=seed)
        tensors[f"{key}.lora_B.weight"] = normal(out, 2, seed=seed + 10)
    return write_adapter(path, tensors)


def test_a_text_encoder_in_openclips_names_is_baked_into_the_rows_that_are_meant(tmp_path: Path) -> None:
    base, a = open_clip_checkpoint(tmp_path / "base.safetensors"), open_clip_lora(tmp_path / "a.safetensors")
    baking = bake(base, {a: 0.5}, tmp_path / "out.safetensors")
    assert len(baking.check(Checkpoint.open(tmp_path / "out.safetensors")).changed) == 2
    before, after, lora = load_file(base), load_file(tmp_path / "out.safetensors"), load_file(a)
    deltas_of = {
        name: 0.5
        * lora[f"text_encoders.{CLIP_G}{name}.lora_B.weight"]
        @ lora[f"text_encoders.{CLIP_G}{name}.lora_A.weight"]
        for name in ("self_attn.v_proj", "mlp.fc1")
    }
    gained = {key: after[key] - before[key] for key in before}
    fused = gained.pop(f"{OPEN_CLIP}{BLOCKS}attn.in_proj_weight")
    assert not fused[: 2 * WIDTH].any()
    assert (fused[2 * WIDTH :] - deltas_of["self_attn.v_proj"]).abs().max() < 1e-6
    assert (gained.pop(f"{OPEN_CLIP}{BLOCKS}mlp.c_fc.weight") - deltas_of["mlp.fc1"]).abs().max() < 1e-6
    assert not any(bool(other.any()) for other in gained.values())


def test_what_was_baked_into_openclips_names_is_extracted_under_clips(tmp_path: Path) -> None:
    base, a = open_clip_checkpoint(tmp_path / "base.safetensors"), open_clip_lora(tmp_path / "a.safetensors")
    bake(base, {a: 1.0}, tmp_path / "tuned.safetensors")
    made = extract(
        Checkpoint.open(base),
        Checkpoint.open(tmp_path / "tuned.safetensors"),
        RankLimits(rank=2),
        dialect="comfy",
        dtype=torch.float32,
    )
    lora = load_file(a)
    names = {name.removesuffix(".lora_A.weight") for name in lora if name.endswith(".lora_A.weight")}
    assert {name.removesuffix(".lora_A.weight") for name in made.content.tensors if "lora_A" in name} == names
    for name in names:
        found = made.content.tensors[f"{name}.lora_B.weight"] @ made.content.tensors[f"{name}.lora_A.weight"]
        wanted = lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
        assert (found - wanted).abs().max() < 1e-5
    assert not any("outside of the layers" in note for note in made.notes)


def test_an_interrupted_bake_leaves_nothing(tmp_path: Path) -> None:
    base, a = checkpoint(tmp_path / "base.safetensors"), lora_file(tmp_path / "a.safetensors", 1)
    baking = Baking(Checkpoint.open(base), [Source(open_lora(a))])

    def stop(done: int, total: int, name: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        baking.write(tmp_path / "out.safetensors", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(FileNotWritten, match="--force"):
        baking.write(base)


def test_keys_for_a_part_that_the_checkpoint_lacks_are_told_and_others_refused(tmp_path: Path) -> None:
    tensors = {name: t for name, t in load_file(checkpoint(tmp_path / "b.safetensors")).items() if "clip_l" not in name}
    save_file(tensors, tmp_path / "unet.safetensors")
    a = lora_file(tmp_path / "a.safetensors", 1)
    base = Checkpoint.open(tmp_path / "unet.safetensors")
    report = Baking(base, [Source(open_lora(a))]).write(tmp_path / "out.safetensors")
    assert len(report.changed) == 3 and any("2 keys are for nothing" in note for note in report.notes)
    odd = write_adapter(tmp_path / "odd.safetensors", load_file(a) | pair("lora_unet_nowhere", (4, 4), 1, 1))
    with pytest.raises(NotMergeable, match="lora_unet_nowhere"):
        Baking(base, [Source(open_lora(odd))])
    assert (
        json.loads(Checkpoint.open(tmp_path / "out.safetensors").header.metadata["lora_loom.made_by"])["by"] == "bake"
    )
    assert TEXT and QKV
