"""Each merging method against what its paper says, on whole matrices; and the report of how alike adapters are."""

import math
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core import open_lora
from lora_pack.lora_core.file_work.deltas.factored import Factored, concat, dot, nearest
from lora_pack.lora_core.file_work.deltas.rank_limits import RankLimits
from lora_pack.lora_core.file_work.merging import elementwise, linear, spectral
from lora_pack.lora_core.file_work.merging.core_space import core_space
from lora_pack.lora_core.file_work.merging.layer_deltas import LayerDeltas, MergeSettings
from lora_pack.lora_core.file_work.merging.methods import METHODS
from lora_pack.lora_core.file_work.resizing import resize
from lora_pack.lora_core.file_work.similarity import similarity
from lora_pack.lora_core.file_work.sources import Source
from torch import Tensor

from ...adapter_files import write_adapter
from ..merge_files_for_tests import (
    PROJ,
    QKV,
    TEXT,
    WIDTH,
    assert_near,
    deltas,
    kohya,
    layout,
    lora_file,
    normal,
    pair,
    split_file,
    written,
)

OUT, IN = 30, 20


def low_rank(seed: int, rank: int = 3) -> Factored:
    return Factored(normal(OUT, rank, seed=seed).double(), normal(rank, IN, seed=seed + 500).double())


def sources(*made: Factored, strengths: tuple[float, ...] = ()) -> LayerDeltas:
    given = strengths or (1.0,) * len(made)
    return LayerDeltas([d.times(s) for d, s in zip(made, given, strict=True)], given, "a layer")


def near(found: Factored | Tensor, wanted: Tensor) -> bool:
    dense = found.dense() if isinstance(found, Factored) else found
    return bool((dense - wanted).norm() <= 1e-10 * max(float(wanted.norm()), 1e-3))


def orthogonal_pair() -> tuple[Factored, Factored]:
    left, right = torch.linalg.qr(normal(OUT, 6).double())[0], torch.linalg.qr(normal(IN, 6, seed=1).double())[0]
    values = torch.tensor([3.0, 2.0, 1.0]).double()
    return (
        Factored(left[:, :3] * values, right[:, :3].T.contiguous()),
        Factored(left[:, 3:] * values, right[:, 3:].T.contiguous()),
    )


@pytest.mark.parametrize("rank", [1, 5, 14, 19, 40])
def test_a_spectrum_is_the_dense_one_whatever_the_rank(rank: int) -> None:
    delta = low_rank(3, rank)
    u, s, v = torch.linalg.svd(delta.dense(), full_matrices=False)
    spectrum = delta.spectrum
    count = min(rank, IN)
    assert spectrum.values.shape == (count,)
    assert torch.allclose(spectrum.values, s[:count], rtol=1e-10)
    assert near(nearest(spectrum, 2), (u[:, :2] * s[:2]) @ v[:2])
    assert math.isclose(delta.norm(), float(delta.dense().norm()), rel_tol=1e-12)


def test_a_sum_of_more_than_full_rank_is_kept_in_full_rank() -> None:
    parts = [low_rank(n, 6) for n in range(8)]
    total = concat(parts)
    assert total.rank == IN
    assert near(total, sum((p.dense() for p in parts), torch.zeros(OUT, IN).double()))


def test_the_core_space_loses_nothing_and_has_orthonormal_bases() -> None:
    made = [low_rank(n) for n in range(3)] + [low_rank(0)]
    space = core_space(made)
    assert space.cores[0].shape == (9, 9)
    for delta, core in zip(made, space.cores, strict=True):
        assert near(space.delta(core), delta.dense())
    assert near(space.left.T @ space.left, torch.eye(9).double())


def test_slerp_turns_the_direction_and_keeps_the_length() -> None:
    one, other = low_rank(1), low_rank(2)
    first, second = one.dense() / one.norm(), other.dense() / other.norm()
    angle = math.acos(float((first * second).sum()))
    for strengths in ((0.5, 0.5), (0.25, 0.75), (1.0, 1.0)):
        t = strengths[1] / sum(strengths)
        direction = (math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle)
        length = strengths[0] * one.norm() + strengths[1] * other.norm()
        assert near(linear.slerp(sources(one, other, strengths=strengths), MergeSettings()), direction * length)
    assert near(linear.slerp(sources(one, one, strengths=(0.3, 0.7)), MergeSettings()), one.dense())


def test_ties_elects_signs_after_the_strengths() -> None:
    """peft elects before the weights, so that a file with a negative strength votes for the wrong sign."""
    one, other = torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.tensor([[2.0, -1.0], [1.0, -1.0]])
    assert elementwise.add_agreeing([one, other]).tolist() == [[3.0, 2.0], [4.0, -5.0]]
    assert elementwise.add_agreeing([one, -other]).tolist() == [[-2.0, 3.0], [3.0, -4.0]]


def test_the_largest_entries_are_kept_as_many_as_asked_for() -> None:
    core = torch.arange(-5, 5).double().reshape(2, 5)
    kept = elementwise.keep_largest(core, MergeSettings(density=0.3, spread=0.0), torch.Generator())
    assert sorted(kept[kept != 0].tolist()) == [-5.0, -4.0, 4.0] or int((kept != 0).sum()) == 3


@pytest.mark.parametrize("thin", [elementwise.drop_and_rescale, elementwise.drop_by_rank_and_rescale])
def test_dropping_rescales_so_that_the_mean_is_the_delta(thin: elementwise.Thin) -> None:
    """peft up to 0.18 drops without rescaling: the result of its division is thrown away."""
    core = normal(8, 8).double() + 2.0
    settings = MergeSettings(density=0.4, spread=0.4)
    drawn = torch.stack([thin(core, settings, torch.Generator().manual_seed(n)) for n in range(4000)])
    assert (drawn.mean(dim=0) - core).norm() < 0.04 * core.norm()
    shares = (drawn != 0).double().mean(dim=0)
    assert abs(float(shares.mean()) - 0.4) < 0.01
    if thin is elementwise.drop_by_rank_and_rescale:
        order = core.abs().argsort(dim=1)
        assert (shares.gather(1, order)[:, 0] < 0.25).all() and (shares.gather(1, order)[:, -1] > 0.55).all()


def test_what_is_dropped_depends_on_the_seed_the_layer_and_the_file_alone() -> None:
    made, merge = [low_rank(1), low_rank(2)], METHODS["dare"].merge
    first = merge(sources(*made), MergeSettings(seed=1)).dense()
    assert torch.equal(first, merge(sources(*made), MergeSettings(seed=1)).dense())
    assert not near(first, merge(sources(*made), MergeSettings(seed=2)).dense())
    other = LayerDeltas(made, (1.0, 1.0), "another layer")
    assert not near(first, merge(other, MergeSettings(seed=1)).dense())


@pytest.mark.parametrize("method", ["svc", "tsv", "orthogonal", "svd"])
def test_files_that_have_nothing_in_common_are_summed(method: str) -> None:
    one, other = orthogonal_pair()
    assert near(METHODS[method].merge(sources(one, other), MergeSettings()), one.dense() + other.dense())


def test_a_direction_that_all_files_have_is_counted_once() -> None:
    """In the plain sum it comes out K times as strong; whitening with shared directions is arbitrary in TSV's code."""
    delta = low_rank(1)
    for method in ("svc", "tsv", "orthogonal"):
        assert near(METHODS[method].merge(sources(delta, delta), MergeSettings()), delta.dense()), method
    assert near(METHODS["svd"].merge(sources(delta, delta), MergeSettings()), 2 * delta.dense())


def test_calibration_divides_each_direction_by_how_often_it_was_counted() -> None:
    made = [low_rank(n) for n in range(3)]
    total = sum((d.dense() for d in made), torch.zeros(OUT, IN).double())
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    energies = torch.stack([(u.T @ d.dense()).square().sum(dim=1) for d in made]).sum(dim=0)
    over = (s.square() / energies).clamp_min(1.0)
    kept = s > 1e-9
    wanted = (u[:, kept] * (s / over)[kept]) @ v[kept]
    assert near(spectral.calibrated(sources(*made), MergeSettings()), wanted)


def test_decorrelated_is_tsv_on_the_dense_matrices() -> None:
    made = [low_rank(n) for n in range(3)]
    triples = [torch.linalg.svd(d.dense(), full_matrices=False) for d in made]
    left = torch.cat([u[:, :3] for u, _, _ in triples], dim=1)
    right = torch.cat([v[:3] for _, _, v in triples])
    values = torch.cat([s[:3] for _, s, _ in triples])

    def polar(stack: Tensor) -> Tensor:
        u, _, v = torch.linalg.svd(stack, full_matrices=False)
        return u @ v

    assert near(spectral.decorrelated(sources(*made), MergeSettings()), (polar(left) * values) @ polar(right))


def test_aligned_is_knots_on_the_dense_matrices_and_does_something() -> None:
    """LoRA-Optimizer's KnOTS puts each file together again from its own part, which changes nothing."""
    made = [low_rank(n) for n in range(2)]
    u, s, v = torch.linalg.svd(torch.cat([d.dense() for d in made], dim=1), full_matrices=False)
    kept = s > 1e-9
    settings = MergeSettings(density=0.4)
    parts = [elementwise.keep_largest(part, settings, torch.Generator()) for part in v[kept].split(IN, dim=1)]
    wanted = (u[:, kept] * s[kept]) @ elementwise.add_agreeing(parts)
    found = spectral.aligned(sources(*made), settings)
    assert near(found, wanted)
    assert not near(found, made[0].dense() + made[1].dense())


def test_orthogonal_leaves_the_first_file_alone_and_takes_its_directions_from_the_others() -> None:
    one, other = low_rank(1), low_rank(2)
    merged = METHODS["orthogonal"].merge(sources(one, other), MergeSettings())
    left, right = one.spectrum.left, one.spectrum.right
    assert near(left.T @ merged.dense() @ right.T, left.T @ one.dense() @ right.T)
    rest = Factored(merged.dense() - one.dense(), torch.eye(IN).double())
    assert abs(dot(rest, one)) < 1e-10


def test_resize_is_exact_per_layer_and_keeps_other_dialects_and_alphas(tmp_path: Path) -> None:
    a = split_file(tmp_path / "a.safetensors", 3, {"to_q": 4, "to_k": 2, "to_v": 3})
    made = resize(open_lora(a), RankLimits(rank=2), layout())
    assert {layer.rank for layer in made.layers} == {2}
    assert sum(key.startswith("transformer.") for key in made.content.tensors) == 6
    found, wanted = written(made, tmp_path / "b.safetensors"), deltas(a)
    name = f"diffusion_model.{QKV}.weight"
    for start in (0, WIDTH, 2 * WIDTH):
        u, s, v = torch.linalg.svd(wanted[name][start : start + WIDTH], full_matrices=False)
        assert (found[name][start : start + WIDTH] - (u[:, :2] * s[:2]) @ v[:2]).abs().max() < 1e-5


def test_a_size_is_spent_where_it_lowers_the_error_most(tmp_path: Path) -> None:
    tensors = pair(kohya(PROJ), (WIDTH, WIDTH), 4, 1) | pair(kohya(QKV), (3 * WIDTH, WIDTH), 4, 2)
    tensors |= {key: t * 0.01 for key, t in pair(kohya(TEXT, "te"), (16, WIDTH), 4, 3).items()}
    a = write_adapter(tmp_path / "a.safetensors", tensors)
    size = 4 * (3 * (WIDTH + WIDTH) + 4 * (4 * WIDTH))
    made = resize(open_lora(a), RankLimits(), layout(), size=size)
    stored = sum(t.numel() * t.element_size() for key, t in made.content.tensors.items() if "alpha" not in key)
    assert 0.8 * size < stored <= size
    assert not any("clip_l" in layer.name for layer in made.layers)
    plain = resize(open_lora(a), RankLimits(rank=2), layout())
    assert made.error < plain.error


def test_similarity_tells_norms_angles_and_what_cancels(tmp_path: Path) -> None:
    a, b = lora_file(tmp_path / "a.safetensors", 1, alpha=2.0), lora_file(tmp_path / "b.safetensors", 2)
    report = similarity([Source(open_lora(a)), Source(open_lora(b), -0.5), Source(open_lora(a), -1.0)], layout())
    one, other = deltas(a), deltas(b)
    flat = [torch.cat([d.flatten() for d in made.values()]) for made in (one, other)]
    assert math.isclose(report.norm(0), float(flat[0].norm()), rel_tol=1e-6)
    cosine = float(flat[0] @ -flat[1] / (flat[0].norm() * flat[1].norm()))
    assert math.isclose(report.cosine(0, 1), cosine, abs_tol=1e-6)
    assert math.isclose(report.cosine(0, 2), -1.0, abs_tol=1e-9) and report.overlap(0, 2) == pytest.approx((1.0, 1.0))
    name = f"diffusion_model.{PROJ}"
    (layer,) = [layer for layer in report.layers if layer.name == name]
    angles = torch.linalg.svdvals(
        torch.linalg.svd(one[f"{name}.weight"])[0][:, :3].T @ torch.linalg.svd(other[f"{name}.weight"])[0][:, :3]
    )
    assert math.isclose(layer.pairs[0].outputs, float(angles.square().mean()), rel_tol=1e-6)
    assert math.isclose(layer.sum_norm, float((0.5 * other[f"{name}.weight"]).norm()), rel_tol=1e-6)
    assert report.gain() < 0.5
    assert any("work against each other" in line for line in report.lines())
    assert "double_blocks.0" in report.blocks() and "clip_l.text_model.encoder.layers.0" in report.blocks()
    assert_near(one, one)
