"""One training, step by step: whoever runs it sees every step, and can end it after any of them."""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadTraining, TrainingFailed
from ..files.lora_in_memory import LoraInMemory
from ..weave.injection import Injection
from .activations import should_recompute
from .backward_pass import BackwardPass
from .batches import Batch, Batches
from .dataset import TrainSample
from .denoiser import Denoiser
from .identity import check_samples, identity_of, result_key
from .loss_scale import LossScale
from .objective import errors
from .saved_state import SavedState, read_state
from .settings import AUTO, TrainSettings, chosen_layers
from .step_report import StepReport
from .text_encoder import TextEncoder
from .trained_adapter import RATE_SHARE, TrainedAdapter
from .trained_file import trained_file
from .validation import Cell, Validation, cell_errors, grid, suggestion

OUT_OF_MEMORY = "the device has no memory left"
ADVICE_MEMORY = "Make the batch or the pictures smaller, or set checkpointing to 'on'."
ADVICE_NAN = "Lower the learning rate, or raise the precision of the model. The last good state was kept."


class Trainer:
    """A training of a low-rank adapter on a frozen model."""

    def __init__(
        self,
        denoiser: Denoiser,
        samples: Sequence[TrainSample],
        settings: TrainSettings,
        *,
        empty: Any = None,
        text: TextEncoder | None = None,
        state: Path | None = None,
    ) -> None:
        """Raises BadTraining for settings that make no sense, for a set without pictures and for broken ones.

        Args:
            denoiser: the model.
            samples: what to learn from.
            settings: how.
            empty: conditioning of the empty caption, for caption dropout.
            text: text encoders that are trained together with the denoiser; its layout names their layers. Captions
                then go through them at every step, and the conditionings of the samples are not read.
            state: where the state is written to, and read from if a training of the same kind left one there.
        """
        settings.check()
        check_samples(samples)
        if settings.caption_dropout and empty is None and text is None:
            raise BadTraining(["caption dropout needs the conditioning of an empty caption"])
        self.settings = settings
        self.notes: list[str] = []
        self.step = 0
        self.state_path = state
        self.denoiser, self._text = denoiser, text
        self._samples, self._empty = list(samples), empty
        modules = denoiser.modules() | ({} if text is None else text.modules())
        self._targets = chosen_layers(denoiser.layout, settings, modules, with_text=text is not None)
        name = denoiser.noising.objective.timesteps if settings.timesteps == AUTO else settings.timesteps
        self.batches = Batches(self._samples, settings.batch, settings.seed, name, settings.caption_dropout)
        self._grid = grid([sample for sample in self._samples if not sample.keep], settings.batch)
        with torch.inference_mode(False):
            self.latents = [denoiser.scaled(sample.latent[None])[0].float() for sample in self._samples]
        self._adapter = TrainedAdapter(self._targets, settings, denoiser.device)
        if self._adapter.too_small:
            self.notes.append(
                f"{self._adapter.too_small} layers are too small for rank {settings.rank} and have the largest they can"
            )
        self.parameters, self.layers = self._adapter.flat, self._adapter.layers
        self._optimiser = self._adapter.optimiser()
        self._scale = LossScale(denoiser.dtype)
        self._backward = BackwardPass(self.parameters.gradient.zero_)
        self._models = [part.fingerprint for part in (denoiser, text) if part is not None]
        self.identity = identity_of(settings, self._targets, self._samples, self.latents, self._models)
        self._at_start, self._losses = list[float](), list[float]()
        self._history: list[tuple[int, float]] = []
        self._looked = False  # whether every layer is reached by the loss

    def run(self) -> Generator[StepReport]:
        """Train to the last step, one report each; closing it leaves the model as it was and keeps what was trained.

        Goes on from the saved state, if there is one of the same settings, layers and pictures. While it is open, the
        model has the adapter beside its layers as it is trained, so that it can be sampled.

        Raises:
            TrainingFailed: NaN, or no memory; the state before that step is what `adapter` gives.
            BadTraining: the saved state that is there belongs to another training.
            FileNotWritten: a state can't be written. FileError: one that is there can't be read.
        """
        self._resume()
        injection = Injection()
        parts = [part for part in (self._text, self.denoiser) if part is not None]
        modules = {path: module for part in parts for path, module in part.modules().items()}
        with ExitStack() as held:
            for part in parts:
                held.enter_context(part.frozen())
            held.callback(injection.detach)
            injection.attach({modules[path]: layer for path, layer in self.layers.items()}, self)
            recompute, note = should_recompute(self.denoiser, self._samples, self.settings, self.loss)
            self.notes += [note] if note else []
            if recompute:
                held.enter_context(self.denoiser.recomputing())
            if not self._at_start:
                self._at_start = self._errors()
                self._history = [(0, 1.0)]
                yield self._report(None, 0.0, 1.0)
            while self.step < self.settings.steps:
                yield self._one_step()

    def _one_step(self) -> StepReport:
        started = time.perf_counter()
        try:
            loss = self.learn(self.batches.next())
        except torch.OutOfMemoryError:
            self.parameters.gradient.zero_()
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

    def learn(self, batch: Batch) -> float:
        """One step of the optimiser on a batch; the loss before it."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.rate_at(self.step + 1) * group[RATE_SHARE]
        with torch.inference_mode(False), torch.enable_grad(), self.denoiser.differentiable():
            loss, norm = self._gradient(batch)
            while not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                self.parameters.gradient.zero_()
                if not bool(torch.isfinite(loss)) or not self._scale.fall():
                    what = "loss" if not bool(torch.isfinite(loss)) else "gradient"
                    value = float(loss if what == "loss" else norm)
                    raise TrainingFailed(self.step, f"the {what} is {value:g} at step {self.step + 1}", ADVICE_NAN)
                loss, norm = self._gradient(batch)
            if not self._looked:
                self.notes += self._adapter.unreached_note()
                self._looked = True
            self._optimiser.step()
            self.parameters.gradient.zero_()
        return float(loss)

    def _gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the norm of its gradient, which then stands clipped in the buffer."""
        loss = self._backward(lambda: self.loss(batch), self._scale.value)
        if self._scale.value != 1.0:
            self.parameters.gradient.mul_(1 / self._scale.value)
        return loss, self.parameters.clip(self.settings.clip)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the batch of weight(sigma) * |output - target|^2 (mean over the numbers of a picture)."""
        device = self.denoiser.device
        latents = torch.stack([self.latents[number] for number in batch.numbers]).to(device)
        sigmas = self.denoiser.sigmas_at(batch.positions).to(device)
        noise = batch.noise.to(device)
        asked = self.denoiser.noising(latents, noise, sigmas, self.settings.weighting)
        noisy, target = asked.noisy, asked.target
        samples = [self._samples[number] for number in batch.numbers]
        kept = [place for place, sample in enumerate(samples) if sample.keep]
        if kept:
            own = self._untrained_output(kept, samples, batch.dropped, noisy, sigmas)
            target = target.to(noisy.dtype).index_copy(0, *own)
        conditions = self._conditions(samples, batch.dropped, latents.shape)
        output = self.denoiser.predict(noisy, sigmas, conditions)
        return (asked.weights.flatten() * errors(output, target)).mean()

    def _conditions(self, samples: Sequence[TrainSample], dropped: Sequence[bool], shape: torch.Size) -> Any:
        """What the model reads of the samples' captions, as the text encoders say it now."""
        if self._text is not None:
            texts = self._text.encode(["" if gone else s.caption for s, gone in zip(samples, dropped, strict=True)])
        else:
            texts = [self._empty if gone else s.conditioning for s, gone in zip(samples, dropped, strict=True)]
        return self.denoiser.conditions(samples, texts, shape)

    def _untrained_output(
        self,
        places: Sequence[int],
        samples: Sequence[TrainSample],
        dropped: Sequence[bool],
        noisy: Tensor,
        sigmas: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the model says without its adapter at these places of a batch: their indices, and [places, ...].

        The captions are then those that text encoders read without theirs.
        """
        index = torch.tensor(places, device=noisy.device)
        own, gone = [samples[place] for place in places], [dropped[place] for place in places]
        with self._adapter.switched_off(), torch.no_grad():
            conditions = self._conditions(own, gone, noisy[index].shape)
            return index, self.denoiser.predict(noisy[index], sigmas[index], conditions).to(noisy.dtype)

    def _validate(self) -> float | None:
        every = self.settings.validate_every
        if self.step != self.settings.steps and not (every and self.step % every == 0):
            return None
        relative = Validation(self._errors(), self._at_start).relative
        self._history.append((self.step, relative))
        return relative

    def _errors(self) -> list[float]:
        """Of all cells of the grid, unweighted."""
        numbers = {id(sample): number for number, sample in enumerate(self._samples)}

        def latents_of(cells: Sequence[Cell]) -> Tensor:
            return torch.stack([self.latents[numbers[id(cell.sample)]] for cell in cells])

        def conditions_of(samples: Sequence[TrainSample], shape: torch.Size) -> Any:
            return self._conditions(samples, [False] * len(samples), shape)

        rows = self._grid
        return [e for row in rows for e in cell_errors(row, latents_of(row), self.denoiser, conditions_of)]

    def save(self) -> None:
        """Write the state, if there is a place for one. Raises FileNotWritten."""
        if self.state_path is not None:
            self.state().write(self.state_path)

    def state(self) -> SavedState:
        """The state as it is."""
        return SavedState(
            step=self.step,
            fingerprint=self.identity.text(),
            factors=self.parameters.whole.detach().clone(),
            optimiser=self._adapter.state_of(self._optimiser),
            errors_at_start=self._at_start,
            losses=self._losses,
            history=self._history,
            loss_scale=self._scale.value,
        )

    def _resume(self) -> None:
        if self.state_path is None or self.step:
            return
        with torch.inference_mode(False):  # so that the optimiser may change what it reads
            found = read_state(self.state_path)
        if found is None:
            return
        found.require_of(self.identity, self.parameters.whole.shape, self.state_path.name)
        self._adapter.take_up(found.factors, self._optimiser, found.optimiser)
        self.step, self._scale.value = found.step, found.loss_scale
        self._at_start, self._losses = list(found.errors_at_start), list(found.losses)
        self._history = list(found.history)
        self.batches.skip(found.step)
        self.notes.append(f"goes on from step {found.step}, which an earlier run left")

    @property
    def losses(self) -> Sequence[float]:
        """Of the steps done."""
        return self._losses

    @property
    def history(self) -> Sequence[tuple[int, float]]:
        """(step, relative error) of the evaluations."""
        return self._history

    def trained_layers(self) -> str:
        """How many layers of which parts, such as "32 layers of unet, 48 layers of clip_l", and how many numbers."""
        return self._adapter.counted()

    def result_key(self) -> str | None:
        """Equal for trainings of one and the same result; None where that can't be told of a model or a caption."""
        read = [self._text.fingerprint] if self._text is not None else [s.conditioning for s in self._samples]
        said = [*read, self._empty] if self.settings.caption_dropout else read
        return result_key(self.identity, said, self._models)

    def adapter(self, name: str) -> LoraInMemory:
        """What was trained up to now, under a name; a copy. Raises NotConvertible."""
        now = self._adapter.copies(), self.denoiser.layout, self.settings, self._samples, self.step
        return trained_file(name, *now)
