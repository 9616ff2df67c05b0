"""The order of the pictures: fair, full, of one shape, and a function of the seed and the step."""

from collections import Counter
from typing import Any

import pytest
import torch
from lora_pack.lora_core.training.batches import (
    BUCKET,
    DROPOUT,
    INIT,
    KEEP_SHARE,
    NOISE,
    ORDER,
    TIME,
    Batches,
    generator_of,
)

from .fakes import pictures


def _batches(samples: Any, batch: int, seed: int = 1, dropout: float = 0.0) -> Batches:
    return Batches(samples, batch, seed, "uniform", dropout)


def test_every_picture_comes_up_as_often_as_its_repeats_ask_for() -> None:
    mixed = [*pictures((4, 4), (4, 4)), *pictures((4, 4), repeats=3)]
    batches = _batches(mixed, 2)
    seen = Counter(number for _ in range(50) for number in batches.next().numbers)
    assert [seen[number] for number in range(3)] == [20, 20, 60]


@pytest.mark.parametrize("kept", [1, 7, 40])
def test_pictures_to_keep_are_seen_in_the_same_share_however_many_they_are(kept: int) -> None:
    learned = pictures((4, 4), (4, 4), repeats=3) + pictures(*[(4, 4)] * 8)
    samples = learned + pictures(*[(4, 4)] * kept, keep=True)
    epoch = kept * 14 + kept * round(KEEP_SHARE * 14)

    seen = Counter(Batches(samples, epoch, 0, "uniform", 0.0).next().numbers)

    assert seen.total() == epoch
    assert {seen[number] for number in range(len(learned), len(samples))} == {round(KEEP_SHARE * 14)}
    assert [seen[number] / kept for number in range(len(learned))] == [sample.repeats for sample in learned]


def test_a_bucket_has_its_turn_as_often_as_it_has_pictures() -> None:
    mixed = [*pictures((4, 4), (4, 4), (4, 4)), *pictures((4, 6), repeats=1)]
    batches = _batches(mixed, 1)
    seen = Counter(batches.next().noise.shape[-1] for _ in range(400))
    assert seen[4] == pytest.approx(300, abs=40)  # 4.6 standard deviations


def test_every_batch_is_full_and_of_one_shape() -> None:
    mixed = pictures((4, 4), (4, 4), (4, 4), (4, 6))
    batches = _batches(mixed, 3)
    for _ in range(20):
        batch = batches.next()
        assert len(batch.numbers) == 3 == len(set(batch.positions.tolist()))
        assert {mixed[number].latent.shape for number in batch.numbers} == {batch.noise.shape[1:]}


def test_skipping_steps_leads_to_the_same_batches_as_walking_through_them() -> None:
    mixed = pictures((4, 4), (4, 6), (4, 4), (6, 4))
    walking = _batches(mixed, 2, dropout=0.5)
    walked = [walking.next() for _ in range(30)]
    for start in (0, 1, 17, 29):
        skipping = _batches(mixed, 2, dropout=0.5)
        torch.randn(5)
        skipping.skip(start)
        found = skipping.next()
        assert found.numbers == walked[start].numbers and found.dropped == walked[start].dropped
        assert torch.equal(found.noise, walked[start].noise)
        assert torch.equal(found.positions, walked[start].positions)


def test_other_seeds_and_other_steps_draw_other_noise() -> None:
    one, other = _batches(pictures((4, 4)), 2), _batches(pictures((4, 4)), 2, seed=2)
    first = one.next()
    assert not torch.equal(first.noise, other.next().noise)
    assert not torch.equal(first.noise, one.next().noise)


def test_every_purpose_and_step_has_a_generator_of_its_own() -> None:
    purposes = (INIT, ORDER, BUCKET, NOISE, TIME, DROPOUT)
    seeds = {generator_of(seed, what, number).initial_seed()
             for seed in (0, 1, 2**63) for what in purposes for number in range(50)}  # fmt: skip
    assert len(seeds) == 3 * len(purposes) * 50


def test_dropping_captions_changes_nothing_else() -> None:
    plain, dropping = _batches(pictures((4, 4)), 2), _batches(pictures((4, 4)), 2, dropout=0.5)
    dropped: list[bool] = []
    for _ in range(100):
        a, b = plain.next(), dropping.next()
        assert torch.equal(a.noise, b.noise) and torch.equal(a.positions, b.positions)
        assert not any(a.dropped)
        dropped += b.dropped
    assert 70 <= sum(dropped) <= 130
