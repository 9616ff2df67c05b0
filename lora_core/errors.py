"""The errors of lora_core: one tree, each error carrying its facts as data and one readable message.

LoraError
|-- FileError              the file can't be used at all
|   |-- FileMissing        it is not there
|   |-- PickleRefused      it is a pickle, which is never opened
|   |-- FileDamaged        it is empty, cut off, or no safetensors file
|   |-- NotAnAdapter       it is a good file of another kind
|   `-- FileNotWritten     a file could not be written, or stands there already
|-- NoLayerReached         no key of the file fits a layer of the model
|-- ModelNeeded            no model was given, and the file does not tell which it is for
|-- FamilyMismatch         the file was made for another model family
|-- UnmatchedKeys          some keys fit nothing, and the caller asked for all
|-- LayerGone              a layer that adapters stand beside is no longer in the model
|-- WeaveTooLarge          memory ran out while the matrices beside the layers were made or moved
|-- NotPerImage            images of a batch can't have strengths of their own as asked
|-- NotOverSteps           some layers, or a merge, can't have a strength that changes
|-- BadSchedule            a strength's curve over the steps has points that can't be read
|-- BadBlocks              strengths of blocks that can't be read, or of blocks that the model does not have
|-- NotConvertible         some layers can't be said in another dialect
|-- DifferentFamilies      files to be put together were made for different model families
|-- NotMergeable           some layers can't be merged, resized, extracted or baked as asked
|-- BadTraining            settings of a training that make no sense, or a model that can't be trained
|-- TrainingFailed         a training that can't go on, and what to change
|-- NoPictures             there is nothing to train on
|-- BadPictures            some pictures or captions can't be used
|-- BadSetting             a number or name that was given makes no sense
`-- StackError             a LoRA stack has rows that can't be read
"""

from collections.abc import Sequence

import torch

LISTED_AT_MOST = 10
NAME_SHOWN = 120  # characters of a file's name in a message


def listed(items: Sequence[str]) -> str:
    """The first ten items, then how many more there are."""
    shown = ", ".join(items[:LISTED_AT_MOST])
    more = len(items) - LISTED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown


def shown(name: str) -> str:
    """A name for a message of one line: its beginning, with what can't be seen as escapes."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return seen if len(seen) <= NAME_SHOWN else f"{seen[:NAME_SHOWN]}..."


class LoraError(Exception):
    """Root of everything that lora_core raises on bad input."""


class FileError(LoraError):
    """A file that can't be used. `file` is its name, `reason` what is wrong, `advice` what to do."""

    def __init__(self, file: str, reason: str, advice: str = "") -> None:
        self.file = file
        self.reason = reason
        self.advice = advice
        super().__init__(f"{shown(file)}: {reason}." + (f" {advice}" if advice else ""))


class FileMissing(FileError):
    """The file is not there (any more), or is no file."""


class PickleRefused(FileError):
    """The file is a pickle: opening it could run code, so its content was not read."""


class FileDamaged(FileError):
    """The file is empty, cut off, or not laid out as safetensors."""


class HeaderTooLong(FileDamaged):
    """The header is longer than whoever asked reads of one; who applies the file reads more."""


class NotAnAdapter(FileError):
    """The file is whole, and something else than an adapter of the model as it was released."""


class FileNotWritten(FileError):
    """A file could not be written; what stood in its place before is untouched."""


class NoLayerReached(LoraError):
    """No key of the file fits any layer of the model; names both families."""

    def __init__(self, file: str, file_family: str, model_family: str, reasons: Sequence[str]) -> None:
        self.file = file
        self.file_family = file_family
        self.model_family = model_family
        self.reasons = tuple(reasons)
        super().__init__(
            f"{file}: none of its keys fits a layer of this model. The file looks made for {file_family}, "
            f"the model is {model_family}. Keys: {listed(self.reasons)}"
        )


class ModelNeeded(LoraError):
    """No model was given, and the layers of the family that the file seems made for are not known."""

    def __init__(self, file: str, file_family: str) -> None:
        self.file = file
        self.file_family = file_family
        super().__init__(
            f"{file}: it seems made for {file_family}, whose layers are not known without a model. "
            f"Give the model: --model CHECKPOINT, or the node's model input."
        )


class FamilyMismatch(LoraError):
    """The file was made for another family of model; names both, and the proof."""

    def __init__(self, file: str, file_family: str, model_family: str) -> None:
        self.file = file
        self.file_family = file_family
        self.model_family = model_family
        super().__init__(
            f"{file} was made for {file_family}, but this model is {model_family}. "
            f"Nothing was applied. Use a LoRA made for {model_family}, or load a {file_family} model."
        )


class UnmatchedKeys(LoraError):
    """Some keys of the file fit nothing in the model and the caller asked for all of them."""

    def __init__(self, file: str, reasons: Sequence[str], keys: int) -> None:
        self.file = file
        self.reasons = tuple(reasons)
        self.keys = keys
        super().__init__(
            f"{file}: {len(self.reasons)} of {keys} keys fit nothing in this model: {listed(self.reasons)}. "
            f'Set on_unmatched to "report" to apply the rest.'
        )


class LayerGone(LoraError):
    """Layers that adapters were planned for are no longer in the model: something else replaced them in between."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        super().__init__(
            f"{len(self.paths)} layers that LoRAs were applied to are gone from the model: {listed(self.paths)}. "
            f"Another node replaced them; apply the LoRA behind that node."
        )


class WeaveTooLarge(LoraError, torch.OutOfMemoryError):
    """Memory ran out for what acts beside the layers. Also torch's own error, so that the host makes room."""

    def __init__(self, files: int, size: int, device: str) -> None:
        self.files = files
        self.size = size  # bytes
        self.device = device
        super().__init__(
            f"out of memory on {device} while {files} LoRA files were put beside the layers, which takes "
            f"{size / 1e6:.0f} MB. The model is as it was; run again with mode 'merge', with fewer files or with files "
            f"of a lower rank."
        )


class NotPerImage(LoraError):
    """Images of one batch can't have strengths of their own. `samples` is how many there are strengths for."""

    def __init__(self, samples: int, found: tuple[int, ...] | int) -> None:
        self.samples = samples
        self.found = found
        if isinstance(found, int):
            why = f"the batch has {found} images. Make the latent's batch size {samples}"
        else:
            why = (
                f"a layer of this model sees {list(found)}, whose first number is no multiple of it. Run the strengths "
                f"one after the other"
            )
        super().__init__(f"strengths for {samples} images were given, but {why}.")


class NotOverSteps(LoraError):
    """A strength that changes over the steps or the images was asked for where it can't be; lists why."""

    def __init__(self, file: str, reasons: Sequence[str], advice: str) -> None:
        self.file = file
        self.reasons = tuple(reasons)
        super().__init__(f"{file}: the strength can't change over steps or images: {listed(self.reasons)}. {advice}")


class BadValues(LoraError):
    """Inputs of a node that are of a wrong kind, or none of its choices; lists all of them."""

    def __init__(self, node: str, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"{node}: {'; '.join(self.reasons)}.")


class NotInWeights(LoraError):
    """Somebody reads the weights of a model whose LoRAs change over steps or images, which weights can't say."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        super().__init__(
            f"{listed(self.files)}: the strength changes over steps or images, and this node reads or changes the "
            "model's weights, which hold one strength. Take the schedule away from Apply LoRA, or put this node before."
        )


class BadSchedule(LoraError):
    """Points of a schedule that can't be read; lists all of them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"the schedule can't be read: {listed(self.reasons)}")


class BadBlocks(LoraError):
    """Strengths of blocks that can't be read, or of blocks that the model does not have; lists all of them."""

    def __init__(self, reasons: Sequence[str], advice: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"the block strengths can't be used: {listed(self.reasons)}. {advice}".rstrip(". ") + ".")


class NotConvertible(LoraError):
    """Some layers of a file can't be said in another dialect; lists all of them. Nothing was written."""

    def __init__(self, file: str, reasons: Sequence[str]) -> None:
        self.file = file
        self.reasons = tuple(reasons)
        super().__init__(f"{file} can't be converted: {listed(self.reasons)}. Nothing was written.")


class DifferentFamilies(LoraError):
    """Files to be put together were made for different families of models; names each file with its family."""

    def __init__(self, families: Sequence[tuple[str, str]]) -> None:
        self.families = tuple(families)
        each = listed([f"{file} is for {family}" for file, family in self.families])
        super().__init__(f"The files were made for different models: {each}. Nothing was written.")


class NotMergeable(LoraError):
    """Some layers can't be worked on as asked; lists all of them. Nothing was written."""

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        self.what = what
        self.reasons = tuple(reasons)
        super().__init__(f"{what}: {listed(self.reasons)}. Nothing was written.")


class NoPictures(LoraError):
    """There is nothing to train on: an empty folder, an empty batch, or only pictures that can't be used."""


class BadPictures(LoraError):
    """Some pictures or captions of a training set can't be used; lists all of them, each with its reason."""

    def __init__(self, where: str, reasons: Sequence[str], pictures: int, advice: str = "") -> None:
        self.where = where
        self.reasons = tuple(reasons)
        self.pictures = pictures
        super().__init__(
            f"{where}: {len(self.reasons)} of {pictures} pictures can't be used: {listed(self.reasons)}."
            + (f" {advice}" if advice else "")
        )


class BadSetting(LoraError):
    """A number or a name that was given makes no sense; says what would."""


class StackError(LoraError):
    """A LoRA stack has rows that can't be read; lists all of them."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"the LoRA stack has {len(self.reasons)} bad row(s): {listed(self.reasons)}")


class BadTraining(LoraError):
    """A training that can't begin. `reasons` holds everything that is wrong."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = list(reasons)
        super().__init__(f"The training can't begin: {'; '.join(self.reasons)}.")


class TrainingFailed(LoraError):
    """A training that had to stop. `step` is the last good one; `reason` and `advice` are for a person."""

    def __init__(self, step: int, reason: str, advice: str) -> None:
        self.step = step
        self.reason = reason
        self.advice = advice
        super().__init__(f"The training stopped after step {step}: {reason}. {advice}")
