"""Runs a training inside the host: shows it, samples previews, ends it when asked, and keeps what it gave."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from PIL import Image
from torch import Tensor

from ...lora_core import open_lora
from ...lora_core.errors import FileError, TrainingFailed, listed
from ...lora_core.files.adapter_content import AdapterContent
from ...lora_core.files.lora_file import LoraFile
from ...lora_core.training import StepReport, Trainer, TrainSettings
from ...lora_core.training.dataset import TrainingSet, TrainSample
from ...lora_core.training.result_mark import Curves, mark_of
from ..comfy_bridge import (
    HostDenoiser,
    HostTextEncoder,
    PreviewOrder,
    is_cancelled,
    keeping_the_wish,
    model_names,
    raise_if_cancelled,
    sample,
    step_bar,
    text_encoder_of,
)
from ..host_files.lora_folders import listed_name
from ..host_files.new_files import check_target, free_path
from ..page.training_progress import BOARD, CANCELLED, DONE, FAILED, STOPPED, TRAINING, thinned
from .preview_pictures import side_by_side, thumbnail
from .training_files import STATE_FOLDER, delete_old_states, finished_file, flat, state_path
from .training_report import lines_of, lines_of_finished

EMPTY_PROMPTS = 12  # prompts to keep for which the empty one is kept once
KEEP_SEED = 77
EMBEDDING = "embedding:"  # in a caption it stands for a file, which may change
NOT_WRITTEN = "the LORA output holds what was trained, and the state stays: make room and queue again to write it"
SECONDS_OF = 20  # steps whose time tells the time left


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainOrder:
    """What a person asked for."""

    settings: TrainSettings
    name: str  # of the file in the loras folder
    writes: bool  # at the end; what was cancelled is always written
    preview_every: int  # steps; 0: none
    prompts: Sequence[str]  # of the previews
    keep: Sequence[str]  # prompts whose pictures should stay as they are
    preview: PreviewOrder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came out."""

    lora: LoraFile
    losses: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]
    previews: Sequence[Tensor]  # each [prompts, height, width, 3], in the order of the steps
    report: str


class TrainingRun:
    """One run of the Train node."""

    def __init__(self, node: str, model: Any, clip: Any, data: TrainingSet, order: TrainOrder) -> None:
        order.settings.check()
        check_target(order.name)
        self._model, self._clip, self._data, self._order = model, clip, data, order
        self._text, self._text_note = text_encoder_of(clip, model)
        self._view = BOARD.begin(node, order.settings.steps)
        self._show = step_bar(order.settings.steps)
        self._trained_models: list[HostTextEncoder | HostDenoiser] = []
        self._about = ""  # what is trained, for a person who waits for step 1
        self._key: str | None = None  # see Trainer.result_key
        self._seconds: list[float] = []
        self._previews: list[Tensor] = []
        self._shape = Counter(s.latent.shape for s in data.samples).most_common(1)[0][0] if data.samples else None

    def run(self) -> Trained:
        """Train; LoraError where it can't begin or go on, with what was trained kept in a file."""
        try:
            trainer = self._trainer()
            done = self._done_before(trainer)
            if done is not None:
                return done
            ended = self._until_the_end(trainer)
        except BaseException:
            self._end(FAILED)
            raise
        self._keep(trainer, ended)
        self._end(ended)
        return self._trained(trainer, ended)

    def _keep(self, trainer: Trainer, ended: str) -> None:
        """Write the file, and only then let go of the state; what can't be written is told, and the state stays."""
        reasons: list[str] = []
        if ended == CANCELLED:
            reasons += _tried(trainer.save)
        if self._order.writes or ended == CANCELLED:
            failed = _tried(lambda: self._write(trainer, trainer.step if ended == CANCELLED else None))
            if failed and ended != CANCELLED:
                failed += _tried(trainer.save)
            reasons += failed
        if reasons:
            self._view.notes = [*self._view.notes, f"not written: {'; '.join(reasons)}", NOT_WRITTEN]
        elif ended != CANCELLED and trainer.state_path is not None:
            trainer.state_path.unlink(missing_ok=True)

    def _trainer(self) -> Trainer:
        names = model_names(self._model, None if self._text is None else self._clip)
        denoiser = HostDenoiser(self._model, names, keeps=self._text is None)
        self._trained_models = [part for part in (self._text, denoiser) if part is not None]
        empty = self._data.encode_text("")
        if self._text is not None:
            self._text.check_fits(empty)
        samples = [*self._data.samples, *self._kept_as_is()]
        trainer = Trainer(denoiser, samples, self._order.settings, empty=empty, text=self._text)
        trainer.notes += self._text_note
        self._about = f"trains {denoiser.layout.family.name}: {trainer.trained_layers()}"
        trainer.state_path = state_path(self._order.name, trainer.identity.short())
        deleted = delete_old_states(trainer.state_path)
        if deleted:
            trainer.notes.append(f"deleted the oldest states of cancelled trainings: {listed(deleted)}")
        return trainer

    def _result_key(self, trainer: Trainer) -> str | None:
        """Of the file that a whole run gives; none where no file is asked for, or an embedding may have changed."""
        if not self._order.writes or (self._text and any(EMBEDDING in s.caption for s in self._data.samples)):
            return None
        return trainer.result_key()

    def _done_before(self, trainer: Trainer) -> Trained | None:
        """What an earlier run of this very training left in the loras folder."""
        self._key = self._result_key(trainer)
        found = None if self._key is None else finished_file(self._order.name, self._key)
        if found is None:
            return None
        if trainer.state_path is not None:
            trainer.state_path.unlink(missing_ok=True)  # nobody goes on from it any more
        (file, curves), view = found, self._view
        view.step, view.file = view.steps, listed_name(file.identity.path)
        view.losses, view.validation = list(curves.losses), list(curves.validation)
        view.notes = [*self._data.notes, *trainer.notes]
        self._end(DONE)
        report = "\n".join(lines_of_finished(view))
        return Trained(lora=file, losses=curves.losses, validation=curves.validation, previews=[], report=report)

    def _kept_as_is(self) -> list[TrainSample]:
        """Pictures that the untrained model makes of the prompts to keep."""
        prompts = self._order.keep
        if not prompts or self._shape is None:
            return []
        # Guidance compares every picture with the empty prompt's: one that changes takes from all the others.
        prompts = [*prompts, *[""] * -(-len(prompts) // EMPTY_PROMPTS)]
        made: list[TrainSample] = []
        encode = self._data.encode_text if self._text is None else self._text.untrained
        empty = encode("")
        for number, prompt in enumerate(prompts):
            order = replace(self._order.preview, seed=KEEP_SEED + number)
            text = encode(prompt)
            latents = sample(self._model, text, empty, self._shape, order)
            if latents is None:
                raise_if_cancelled()
            with torch.inference_mode(False):
                latent = torch.as_tensor(latents)[0].float().cpu().clone()
            size = self._data.samples[0].size
            made.append(
                TrainSample(
                    latent=latent, conditioning=text, caption=prompt, name=f"kept: {prompt}", size=size,
                    keep=True,
                )
            )  # fmt: skip
        return made

    def _until_the_end(self, trainer: Trainer) -> str:
        try:
            return self._train(trainer)
        except TrainingFailed as error:
            step = error.step
            if not step:
                raise
            failed = _tried(lambda: self._write(trainer, step))
            kept = f"It could not be kept: {'; '.join(failed)}." if failed else f"Kept as {self._view.file}."
            raise TrainingFailed(error.step, error.reason, f"{error.advice} {kept}") from None

    def _train(self, trainer: Trainer) -> str:
        """Run to the end, or to where a person ends it: how it ended."""
        every = self._order.preview_every
        with keeping_the_wish(), closing(trainer.run()) as steps:  # newer hosts end a cancelled run inside the model
            for report in steps:
                self._note(report)
                picture = None
                if every and (report.step % every == 0 or report.step == report.steps):
                    picture = self._preview(report.step)
                    for part in self._trained_models:
                        part.settle()
                self._show(report.step, picture)
                BOARD.send(self._view, at_once=picture is not None or report.step == 0)
                if is_cancelled():
                    return CANCELLED
                if BOARD.should_stop(self._view.node):
                    return STOPPED
            return DONE
        return CANCELLED

    def _note(self, report: StepReport) -> None:
        view = self._view
        view.state, view.step, view.learning_rate = TRAINING, report.step, report.learning_rate
        view.suggestion, view.notes = report.suggestion, [self._about, *self._data.notes, *report.notes]
        if report.loss is not None:
            view.losses.append((report.step, report.loss))
            self._seconds = [*self._seconds[-SECONDS_OF:], report.seconds]
            view.seconds_left = (report.steps - report.step) * sum(self._seconds) / len(self._seconds)
        if report.validation is not None:
            view.validation.append((report.step, report.validation))

    def _encoded(self, caption: str) -> Any:
        """The conditioning of a caption, by the text encoders as they are trained now."""
        if self._text is None:
            return self._data.encode_text(caption)
        with torch.inference_mode(False), torch.no_grad():
            return self._text.encode([caption])[0]

    def _preview(self, step: int) -> Image.Image | None:
        pictures: list[Tensor] = []
        texts = [self._encoded(prompt) for prompt in ("", *self._order.prompts)]
        for text in texts[1:]:
            latents = sample(self._model, text, texts[0], self._shape or (), self._order.preview)
            if latents is None:
                return None
            pictures.append(self._data.decode(latents)[:1].float().cpu())
        if not pictures:
            return None
        together = torch.cat(pictures)
        self._previews.append(together)
        picture = side_by_side(together)
        name = f"{flat(self._order.name)}_{id(self._view):x}_{step:06}.png"
        folder = Path(folder_paths.get_temp_directory()) / STATE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
        self._view.previews.append({"step": step, "filename": name, "subfolder": STATE_FOLDER, "type": "temp"})
        return picture

    def _write(self, trainer: Trainer, step: int | None) -> None:
        """Put the adapter into the loras folder, and see that it is there. Raises FileError."""
        name = self._order.name if step is None else f"{self._order.name}_step{step}"
        lora = trainer.adapter(Path(name).name)
        path = free_path(name, ".safetensors")
        metadata = {**lora.header.metadata, **(thumbnail(self._previews[-1][:1]) if self._previews else {})}
        if step is None and trainer.step == trainer.settings.steps and self._key is not None:
            losses = thinned(list(enumerate(trainer.losses, start=1)))
            metadata |= mark_of(self._key, lora.content.tensors, Curves(losses, trainer.history))
        AdapterContent(tensors=lora.content.tensors, metadata=metadata).write(path)
        open_lora(path)  # raises where what lies there is not what was written
        self._view.file = listed_name(path)

    def _end(self, state: str) -> None:
        self._view.state, self._view.seconds_left = state, None
        BOARD.send(self._view, at_once=True)

    def _trained(self, trainer: Trainer, ended: str) -> Trained:
        return Trained(
            lora=trainer.adapter(Path(self._order.name).name),
            losses=list(enumerate(trainer.losses, start=1)),
            validation=list(trainer.history),
            previews=self._previews,
            report="\n".join(lines_of(self._view, trainer, ended)),
        )


def _tried(write: Callable[[], object]) -> list[str]:
    """Why a file could not be written; empty if it was."""
    try:
        write()
    except (FileError, OSError) as error:
        return [str(error)]
    return []
