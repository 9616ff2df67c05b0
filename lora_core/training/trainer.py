"""One training, step by step: whoever runs it sees every step, and can end it after any of them."""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dataset import TrainSample
from ..errors import BadTraining, TrainingFailed
from ..injection import Injection
from ..lora_in_memory import LoraInMemory
from .activations import fits
from .batches import INIT, Batch, Batches, generator_of
from .checkpoint import Checkpoint, read_checkpoint
from .denoiser import Denoiser
from .flat_parameters import FlatParameters
from .identity import check_samples, identity_of
from .loss_scale import LossScale
from .objective import OBJECTIVES, WEIGHTINGS, errors
from .settings import AUTO, INITS, ON, OPTIMISERS, TrainSettings, chosen_layers, rank_of
from .trainable import TrainableLayer
from .trained_file import TrainedLayer, trained_file
from .validation import Validation, grid, suggestion

OUT_OF_MEMORY = "the device has no memory left"
ADVICE_MEMORY = "Make the batch or the pictures smaller, or set checkpointing to 'on'."
ADVICE_NAN = "Lower the learning rate, or raise the precision of the model. The last good state was kept."


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did. Step 0 is the state before the training."""

    step: int
    steps: int
    loss: float | None  # weighted, of the step's batch
    learning_rate: float
    seconds: float  # that the step took
    validation: float | None = None  # error / error at the start, see validation
    suggestion: str = ""
    notes: Sequence[str] = field(default_factory=tuple[str, ...])


class Trainer:
    """A training of a low-rank adapter on a frozen model."""

    def __init__(
        self,
        denoiser: Denoiser,
        samples: Sequence[TrainSample],
        settings: TrainSettings,
        *,
        empty: Any = None,
        checkpoint: Path | None = None,
    ) -> None:
        """Raises BadTraining for settings that make no sense, for a set without pictures and for broken ones.

        Args:
            denoiser: the model.
            samples: what to learn from.
            settings: how.
            empty: conditioning of the empty caption, for caption dropout.
            checkpoint: where the state is written to, and read from if a training of the same kind left one there.
        """
        settings.check()
        check_samples(samples)
        if settings.caption_dropout and empty is None:
            raise BadTraining(["caption dropout needs the conditioning of an empty caption"])
        self.settings = settings
        self.notes: list[str] = []
        self.step = 0
        self.checkpoint_path = checkpoint
        self._denoiser, self._samples, self._empty = denoiser, list(samples), empty
        self._objective = OBJECTIVES[denoiser.objective]
        self._targets = chosen_layers(denoiser.layout, settings)
        name = self._objective.timesteps if settings.timesteps == AUTO else settings.timesteps
        self._batches = Batches(self._samples, settings.batch, settings.seed, name, settings.caption_dropout)
        self._grid = grid([sample for sample in self._samples if not sample.keep])
        with torch.inference_mode(False):
            self._latents = [denoiser.scaled(sample.latent[None])[0].float() for sample in self._samples]
        self._make_layers()
        self._optimiser = OPTIMISERS[settings.optimiser]([self._flat.whole], settings.rate)
        self._scale = LossScale(denoiser.dtype)
        self.identity = identity_of(settings, self._targets, self._samples, self._latents)
        self._at_start: list[float] = []
        self._losses: list[float] = []
        self._history: list[tuple[int, float]] = []

    def _make_layers(self) -> None:
        settings = self.settings
        shapes: list[tuple[int, ...]] = []
        for target in self._targets:
            rank, kernel = rank_of(target, settings), target.shape[2:]
            shapes += [(rank, *target.shape[1:]), (target.shape[0], rank, *[1] * len(kernel))]
        smaller = sum(rank_of(target, settings) < settings.rank for target in self._targets)
        if smaller:
            self.notes.append(f"{smaller} layers are too small for rank {settings.rank} and have the largest they can")
        with torch.inference_mode(False):
            self._flat = FlatParameters(shapes, self._denoiser.device)
            rng = generator_of(settings.seed, INIT)
            pairs = list(zip(self._flat.views[::2], self._flat.views[1::2], strict=True))
            for down, _ in pairs:
                down.data.copy_(INITS[settings.init](torch.empty(down.shape), rng))
        scale = settings.alpha_of / settings.rank
        self._layers = {
            target.path: TrainableLayer(down, up, scale)
            for target, (down, up) in zip(self._targets, pairs, strict=True)
        }

    def run(self) -> Generator[StepReport]:
        """Train to the last step, one report each; closing it leaves the model as it was and keeps what was trained.

        Goes on from the checkpoint, if there is one of the same settings, layers and pictures. While it is open, the
        model has the adapter beside its layers as it is trained, so that it can be sampled.

        Raises:
            TrainingFailed: NaN, or no memory; the state before that step is what `adapter` gives.
            BadTraining: the checkpoint that is there belongs to another training.
            FileNotWritten: a checkpoint can't be written. FileError: one that is there can't be read.
        """
        self._resume()
        injection = Injection()
        modules = self._denoiser.modules()
        with ExitStack() as held:
            held.enter_context(self._denoiser.frozen())
            held.callback(injection.detach)
            injection.attach({modules[path]: layer for path, layer in self._layers.items()}, self)
            if self._should_checkpoint():
                held.enter_context(self._denoiser.checkpointed())
            if not self._at_start:
                self._at_start = self._errors()
                self._history = [(0, 1.0)]
                yield self._report(None, 0.0, 1.0)
            while self.step < self.settings.steps:
                yield self._one_step()

    def _one_step(self) -> StepReport:
        started = time.perf_counter()
        try:
            loss = self._learn(self._batches.next())
        except torch.OutOfMemoryError:
            self._flat.gradient.zero_()
            raise TrainingFailed(self.step, OUT_OF_MEMORY, ADVICE_MEMORY) from None
        self.step += 1
        self._losses.append(loss)
        validation = self._validate()
        if self.settings.save_every and self.step % self.settings.save_every == 0:
            self.save()
        return self._report(loss, time.perf_counter() - started, validation)

    def _report(self, loss: float | None, seconds: float, validation: float | None) -> StepReport:
        rate = self.settings.rate_at(self.step) if self.step else 0.0
        return StepReport(
            step=self.step,
            steps=self.settings.steps,
            loss=loss,
            learning_rate=rate,
            seconds=seconds,
            validation=validation,
            suggestion=suggestion(self._history),
            notes=tuple(self.notes),
        )

    def _learn(self, batch: Batch) -> float:
        """One step of the optimiser on a batch; the loss before it."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.rate_at(self.step + 1)
        with torch.inference_mode(False), torch.enable_grad():
            loss, norm = self._gradient(batch)
            while not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                self._flat.gradient.zero_()
                if not bool(torch.isfinite(loss)) or not self._scale.fall():
                    what = "loss" if not bool(torch.isfinite(loss)) else "gradient"
                    value = float(loss if what == "loss" else norm)
                    raise TrainingFailed(self.step, f"the {what} is {value:g} at step {self.step + 1}", ADVICE_NAN)
                loss, norm = self._gradient(batch)
            self._optimiser.step()
            self._flat.gradient.zero_()
        return float(loss)

    def _gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the norm of its gradient, which then stands clipped in the buffer."""
        loss = self.loss(batch)
        torch.autograd.backward(loss * self._scale.value)
        if self._scale.value != 1.0:
            self._flat.gradient.mul_(1 / self._scale.value)
        return loss.detach(), self._flat.clip(self.settings.clip)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the batch of weight(sigma) * |output - target|^2 (mean over the numbers of a picture)."""
        device = self._denoiser.device
        latents = torch.stack([self._latents[number] for number in batch.numbers]).to(device)
        sigmas = self._denoiser.sigmas_at(batch.positions).to(device)
        noise = batch.noise.to(device)
        wide = sigmas.reshape(-1, *[1] * (latents.dim() - 1))
        noisy, target = self._objective.noisy(latents, noise, wide), self._objective.target(latents, noise, wide)
        samples = [self._samples[number] for number in batch.numbers]
        texts = [self._empty if gone else s.conditioning for s, gone in zip(samples, batch.dropped, strict=True)]
        conditions = self._denoiser.conditions(samples, texts, latents.shape)
        kept = [place for place, sample in enumerate(samples) if sample.keep]
        if kept:
            target = target.to(noisy.dtype).index_copy(0, *self._untrained_output(kept, samples, texts, noisy, sigmas))
        output = self._denoiser.predict(noisy, sigmas, conditions)
        weights = WEIGHTINGS[self.settings.weighting](self._objective, sigmas)
        return (weights * errors(output, target)).mean()

    def _untrained_output(
        self, places: Sequence[int], samples: Sequence[TrainSample], texts: Sequence[Any], noisy: Tensor, sigmas: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the model says without the adapter at these places of a batch: their indices, and [places, ...]."""
        own_samples, own_texts = [samples[place] for place in places], [texts[place] for place in places]
        index = torch.tensor(places, device=noisy.device)
        conditions = self._denoiser.conditions(own_samples, own_texts, noisy[index].shape)
        with self._untrained(), torch.no_grad():
            return index, self._denoiser.predict(noisy[index], sigmas[index], conditions).to(noisy.dtype)

    @contextmanager
    def _untrained(self) -> Generator[None]:
        for layer in self._layers.values():
            layer.is_on = False
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.is_on = True

    def _validate(self) -> float | None:
        every = self.settings.validate_every
        if self.step != self.settings.steps and not (every and self.step % every == 0):
            return None
        relative = Validation(self._errors(), self._at_start).relative
        self._history.append((self.step, relative))
        return relative

    def _errors(self) -> list[float]:
        """Of all cells of the grid, unweighted."""
        found: list[float] = []
        device = self._denoiser.device
        numbers = {id(sample): number for number, sample in enumerate(self._samples)}
        for cells in self._grid:
            samples = [cell.sample for cell in cells]
            latents = torch.stack([self._latents[numbers[id(sample)]] for sample in samples]).to(device)
            noise = torch.stack([cell.noise for cell in cells]).to(device)
            sigmas = self._denoiser.sigmas_at(torch.tensor([cell.position for cell in cells])).to(device)
            wide = sigmas.reshape(-1, *[1] * (latents.dim() - 1))
            texts = [sample.conditioning for sample in samples]
            with torch.inference_mode(False), torch.no_grad():
                conditions = self._denoiser.conditions(samples, texts, latents.shape)
                noisy = self._objective.noisy(latents, noise, wide)
                output = self._denoiser.predict(noisy, sigmas, conditions)
            found += [float(error) for error in errors(output, self._objective.target(latents, noise, wide))]
        return found

    def _should_checkpoint(self) -> bool:
        """Whether activations are recomputed: as asked, or where they would not fit."""
        chosen = self.settings.checkpointing
        if chosen != AUTO:
            return chosen == ON
        memory = self._denoiser.memory()
        if memory is None:
            return False
        largest = max(range(len(self._samples)), key=lambda number: self._samples[number].latent.numel())
        probe = Batches([self._samples[largest]], 1, self.settings.seed, "uniform", 0.0).next()
        probe = replace(probe, numbers=[largest])
        with torch.inference_mode(False), torch.enable_grad():
            needed, enough = fits(lambda: self.loss(probe), self.settings.batch, memory)
        gigabytes = f"{needed / 1024**3:.2f} GiB of activations, {memory.free / 1024**3:.2f} GiB free"
        self.notes.append(f"gradient checkpointing is {'off' if enough else 'on'}: {gigabytes}")
        return not enough

    def save(self) -> None:
        """Write the checkpoint, if there is a place for one. Raises FileNotWritten."""
        if self.checkpoint_path is not None:
            self.checkpoint().write(self.checkpoint_path)

    def checkpoint(self) -> Checkpoint:
        """The state as it is."""
        state = self._optimiser.state.get(self._flat.whole, {})
        return Checkpoint(
            step=self.step,
            fingerprint=self.identity.text(),
            factors=self._flat.whole.detach().clone(),
            optimiser={name: value.clone() for name, value in state.items() if isinstance(value, Tensor)},
            errors_at_start=self._at_start,
            losses=self._losses,
            history=self._history,
            loss_scale=self._scale.value,
        )

    def _resume(self) -> None:
        if self.checkpoint_path is None or self.step:
            return
        with torch.inference_mode(False):  # so that the optimiser may change what it reads
            found = read_checkpoint(self.checkpoint_path)
        if found is None:
            return
        differences = self.identity.differences(found.fingerprint)
        if differences or found.factors.shape != self._flat.whole.shape:
            name, what = self.checkpoint_path.name, ", ".join(differences) or "the number of factors"
            raise BadTraining(
                [f"{name} keeps another training, which differs in {what}; choose another file name, or delete it"]
            )
        with torch.inference_mode(False):
            self._flat.whole.data.copy_(found.factors)
            device = self._flat.whole.device
            moved = {k: (t if k == "step" else t.to(device)).clone() for k, t in found.optimiser.items()}
            self._optimiser.state[self._flat.whole] = moved
        self.step, self._scale.value = found.step, found.loss_scale
        self._at_start, self._losses = list(found.errors_at_start), list(found.losses)
        self._history = list(found.history)
        self._batches.skip(found.step)
        self.notes.append(f"goes on from step {found.step}, which an earlier run left")

    @property
    def losses(self) -> Sequence[float]:
        """Of the steps done."""
        return self._losses

    @property
    def history(self) -> Sequence[tuple[int, float]]:
        """(step, relative error) of the evaluations."""
        return self._history

    def adapter(self, name: str) -> LoraInMemory:
        """What was trained up to now, under a name; a copy. Raises NotConvertible."""
        layers = [
            TrainedLayer(path, layer.down.detach().clone(), layer.up.detach().clone())
            for path, layer in self._layers.items()
        ]
        return trained_file(name, layers, self._denoiser.layout, self.settings, self._samples, self.step)
