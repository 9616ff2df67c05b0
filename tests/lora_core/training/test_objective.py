"""Objectives against their definitions, weights against the papers' forms, timesteps against their distributions."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from lora_pack.lora_core.training import TrainSettings
from lora_pack.lora_core.training.batches import Batches
from lora_pack.lora_core.training.objective import OBJECTIVES, WEIGHTINGS, Noising, errors
from lora_pack.lora_core.training.timesteps import TIMESTEPS, place_at, positions

from .fakes import pictures

RNG = torch.Generator().manual_seed(3)
X0, NOISE = (torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=RNG) for _ in range(2))
SIGMA = torch.tensor([0.3, 7.0], dtype=torch.float64)
WIDE = SIGMA.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("data", [1.0, 0.5])
@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("eps", lambda x, said, d: x - WIDE * said),
        ("v", lambda x, said, d: (d**2 * x - said * WIDE * d * (d**2 + WIDE**2).sqrt()) / (d**2 + WIDE**2)),
        ("edm", lambda x, said, d: (d**2 * x + said * WIDE * d * (d**2 + WIDE**2).sqrt()) / (d**2 + WIDE**2)),
        ("x0", lambda x, said, d: said),
        ("flow of added noise", lambda x, said, d: x / (1 + WIDE) - said * WIDE / (1 + WIDE)),
    ],
)
def test_the_clean_picture_follows_from_what_each_objective_says(name: str, clean: Any, data: float) -> None:
    one = OBJECTIVES[name]
    said = one.target(X0, NOISE, WIDE, data)
    torch.testing.assert_close(clean(one.noisy(X0, NOISE, WIDE), said, data), X0)


def test_the_clean_picture_follows_from_a_flow() -> None:
    sigma = torch.tensor([0.2, 0.9], dtype=torch.float64).reshape(-1, 1, 1, 1)
    one = OBJECTIVES["flow"]
    x, said = one.noisy(X0, NOISE, sigma), one.target(X0, NOISE, sigma, 1.0)
    torch.testing.assert_close(x - sigma * said, X0)
    torch.testing.assert_close(x + (1 - sigma) * said, NOISE)


@pytest.mark.parametrize(("name", "extra"), [("eps", 0), ("v", 1)])
def test_min_snr_caps_the_weight_of_the_clean_picture_at_gamma(name: str, extra: int) -> None:
    weights = WEIGHTINGS["min-snr"](OBJECTIVES[name], SIGMA, 1.0)
    torch.testing.assert_close(weights * (1 / SIGMA**2 + extra), torch.tensor([5.0, 1 / 49], dtype=torch.float64))


def test_flows_and_unweighted_losses_have_weights_of_one() -> None:
    assert WEIGHTINGS["min-snr"](OBJECTIVES["flow"], SIGMA, 1.0).tolist() == [1, 1]
    assert WEIGHTINGS["none"](OBJECTIVES["eps"], SIGMA, 1.0).tolist() == [1, 1]


def test_noise_is_as_large_as_the_model_mixes_it_in() -> None:
    asked = Noising(OBJECTIVES["flow"], noise_scale=8.0)(X0, NOISE, SIGMA / 10, "none")
    torch.testing.assert_close(asked.noisy, (1 - WIDE / 10) * X0 + WIDE / 10 * 8 * NOISE)
    torch.testing.assert_close(asked.target, 8 * NOISE - X0)


def test_each_pictures_error_is_its_own_mean() -> None:
    said = X0.clone()
    said[1] += 2
    torch.testing.assert_close(errors(said, X0), torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_noise_levels_of_any_run_of_steps_cover_the_whole_way_evenly(batch: int) -> None:
    batches = Batches(pictures((4, 4)), batch, 7, "uniform", 0.0)
    for first in (0, 1000):
        batches.skip(first)
        found = torch.cat([batches.next().positions for _ in range(40)])
        counts = torch.histc(found, bins=8, min=0, max=1)
        assert counts.min() >= 5 * batch - 2 and counts.max() <= 5 * batch + 2


def test_each_part_of_the_way_is_seen_once_in_a_batch_and_by_every_place_of_it() -> None:
    rng = torch.Generator().manual_seed(1)
    first: Counter[int] = Counter()
    for step in range(200):
        found = positions(4, "uniform", place_at(step, 0.3), rng)
        assert sorted((found * 4).floor().int().tolist()) == [0, 1, 2, 3]
        first[int(found[0] * 4)] += 1
    assert min(first.values()) >= 25


def test_two_seeds_walk_through_other_noise_levels() -> None:
    one, other = (Batches(pictures((4, 4)), 1, seed, "uniform", 0.0) for seed in (1, 2))
    assert not torch.equal(one.next().positions, other.next().positions)


def test_logit_normal_timesteps_have_its_quantiles() -> None:
    shares = torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64)
    torch.testing.assert_close(TIMESTEPS["logit-normal"](shares), torch.tensor([0.5, 0.7310585786300049]))


def test_the_rate_warms_up_and_never_is_zero() -> None:
    settings = TrainSettings(steps=20, warmup=0.2, learning_rate=1.0, schedule="cosine")
    rates = [settings.rate_at(step) for step in range(1, 21)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and 0 < rates[-1] < 0.02
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    one = TrainSettings(steps=1, warmup=1.0, schedule="linear", learning_rate=1.0)
    assert one.rate_at(1) == 1.0
