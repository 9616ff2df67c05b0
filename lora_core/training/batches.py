"""Which pictures a step sees, at which noise levels and with which noise: all of it follows from seed and step.

`Batches` walks from step to step; to go on after a break, `skip` walks it over the steps that were done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset import TrainSample
from .timesteps import place_at, positions

# What a step draws, each from a generator of its own, so that one choice changes no other.
INIT, ORDER, BUCKET, NOISE, TIME, DROPOUT = range(6)
MIX = 0x9E3779B97F4A7C15  # odd, of 64 bits: spreads neighbouring steps over all seeds
SEEDS = 2**63 - 1
KEEP_SHARE = 0.6  # pictures that should stay as they are, for every picture to learn


def generator_of(seed: int, what: int, number: int = 0) -> torch.Generator:
    """A generator for one purpose of one step (or epoch)."""
    mixed = seed
    for part in (what + 1, number + 1):
        mixed = ((mixed ^ (part * MIX)) * MIX + part) % 2**64
        mixed ^= mixed >> 29
    return torch.Generator().manual_seed(mixed % SEEDS)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The pictures of one step, all of one shape."""

    numbers: Sequence[int]  # of the samples
    positions: Tensor  # [batch], see timesteps
    noise: Tensor  # [batch, channels, *picture]
    dropped: Sequence[bool]  # whose caption is not seen


def times_seen(samples: Sequence[TrainSample]) -> list[int]:
    """How often each picture is seen in an epoch: its repeats, or, where some should stay as they are, a multiple.

    However many these are, together they are seen KEEP_SHARE times as often as those to learn, each as often.
    """
    kept = sum(sample.keep for sample in samples)
    if kept == 0:
        return [sample.repeats for sample in samples]
    learned = sum(sample.repeats for sample in samples if not sample.keep)
    own = max(1, round(KEEP_SHARE * learned))
    return [own if sample.keep else sample.repeats * kept for sample in samples]


class Batches:
    """Walks through the epochs of every bucket; a bucket's turn comes as often as it has pictures."""

    def __init__(self, samples: Sequence[TrainSample], batch: int, seed: int, timesteps: str, dropout: float) -> None:
        self._samples = samples
        self._batch = batch
        self._seed = seed
        self._timesteps = timesteps
        self._dropout = dropout
        buckets: dict[torch.Size, list[int]] = {}
        for number, (sample, times) in enumerate(zip(samples, times_seen(samples), strict=True)):
            buckets.setdefault(sample.latent.shape, []).extend([number] * times)
        self._buckets = list(buckets.values())
        self._left: Mapping[int, list[int]] = {number: [] for number in range(len(self._buckets))}
        self._epochs = [0] * len(self._buckets)
        self._step = 0
        self._start = float(torch.rand((), generator=generator_of(seed, TIME)))

    def skip(self, steps: int) -> None:
        """Go on behind these steps."""
        for _ in range(steps):
            self._next_numbers()

    def next(self) -> Batch:
        """The batch of the next step; short epochs are joined, so that every batch is full."""
        numbers = self._next_numbers()
        shape = (len(numbers), *self._samples[numbers[0]].latent.shape)
        dropped = torch.rand(len(numbers), generator=generator_of(self._seed, DROPOUT, self._step)) < self._dropout
        place = place_at(self._step, self._start)
        return Batch(
            numbers,
            positions(len(numbers), self._timesteps, place, generator_of(self._seed, TIME, self._step)),
            torch.randn(shape, generator=generator_of(self._seed, NOISE, self._step)),
            [bool(gone) for gone in dropped],
        )

    def _next_numbers(self) -> list[int]:
        self._step += 1
        bucket = self._bucket()
        left = self._left[bucket]
        while len(left) < self._batch:
            left += self._epoch(bucket)
        taken, left[: self._batch] = left[: self._batch], []
        return taken

    def _bucket(self) -> int:
        sizes = torch.tensor([float(len(bucket)) for bucket in self._buckets])
        if len(sizes) == 1:
            return 0
        return int(torch.multinomial(sizes, 1, generator=generator_of(self._seed, BUCKET, self._step)))

    def _epoch(self, bucket: int) -> list[int]:
        self._epochs[bucket] += 1
        order = generator_of(self._seed, ORDER, self._epochs[bucket] * len(self._buckets) + bucket)
        own = self._buckets[bucket]
        return [own[int(place)] for place in torch.randperm(len(own), generator=order)]
