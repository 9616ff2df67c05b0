"""What a training says of itself in words when it has ended."""

from collections.abc import Iterator

from ...lora_core.training import Trainer
from ..page.training_progress import CANCELLED, TrainingView


def lines_of(view: TrainingView, trainer: Trainer, ended: str) -> Iterator[str]:
    settings = trainer.settings
    yield f"{ended}: step {trainer.step} of {settings.steps}, rank {settings.rank}, learning rate {settings.rate:g}."
    yield f"Trained: {trainer.trained_layers()}."
    if trainer.history:
        step, best = min(trainer.history, key=lambda entry: entry[1])
        yield f"Validation: {trainer.history[-1][1]:.1%} of the error at the start; best {best:.1%} at step {step}."
        if len(trainer.history) > 1 and best >= 1.0:
            yield "Warning: the validation never got better than at the start; the LoRA may be of no use."
    if view.file:
        yield f"Written as {view.file}."
    if ended == CANCELLED:
        yield "Queue again to go on from here."
    yield from (f"Note: {note}." for note in view.notes if trainer.trained_layers() not in note)


def lines_of_finished(view: TrainingView) -> Iterator[str]:
    yield f"done before: {view.file} is the result of this very training, so nothing was trained."
    if view.validation:
        yield f"Validation: {view.validation[-1][1]:.1%} of the error at the start."
    yield "To train anew all the same, move or delete the file, or choose another seed."
    yield from (f"Note: {note}." for note in view.notes)
