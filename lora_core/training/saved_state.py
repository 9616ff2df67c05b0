"""The state of a training on disk: whole or not at all, and enough to go on to the very same result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadTraining, FileDamaged, FileError
from ..files.lora_file import open_lora
from ..files.safetensors_writer import write_safetensors
from .identity import Identity

MARK = "lora_loom.training"  # metadata: the JSON table below
FACTORS, ERRORS, LOSSES = "factors", "errors_at_start", "losses"
OPTIMISER = "optimiser."
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedState:
    """Everything that a training is after a step. What the next steps draw follows from the seed and the step."""

    step: int
    fingerprint: str  # of settings, layers and data: another training can't go on from here
    factors: Tensor  # [numbers], float32
    optimiser: Mapping[str, Tensor]  # "0.exp_avg": of its first group
    errors_at_start: Sequence[float]
    losses: Sequence[float]  # of the steps 1 to step
    history: Sequence[tuple[int, float]]  # (step, relative error) of the evaluations
    loss_scale: float = 1.0  # see loss_scale

    def write(self, path: Path) -> None:
        """Write it, replacing an older one in one step. Raises FileNotWritten; the older one is then still whole."""
        table = {
            "version": VERSION,
            "step": self.step,
            "fingerprint": self.fingerprint,
            "history": list(self.history),
            "loss_scale": self.loss_scale,
        }
        tensors = {
            FACTORS: self.factors.cpu(),
            ERRORS: torch.tensor(self.errors_at_start, dtype=torch.float64),
            LOSSES: torch.tensor(self.losses, dtype=torch.float64),
            **{OPTIMISER + name: tensor.cpu() for name, tensor in self.optimiser.items()},
        }
        write_safetensors(path, tensors, {MARK: json.dumps(table)})

    def require_of(self, identity: Identity, shape: torch.Size, name: str) -> None:
        """Raise BadTraining, with the file's name, unless it is of this training, with [numbers] factors."""
        differences = identity.differences(self.fingerprint)
        if differences or self.factors.shape != shape:
            what = ", ".join(differences) or "the number of factors"
            raise BadTraining(
                [f"{name} keeps another training, which differs in {what}; choose another file name, or delete it"]
            )


def read_state(path: Path) -> SavedState | None:
    """The saved state at a path; None where there is no file. Raises FileError for a file that is none."""
    if not path.exists():
        return None
    file = open_lora(path)
    try:
        table = json.loads(file.header.metadata[MARK])
        with file.tensors() as reader:
            held = {key: reader.tensor(key) for key in file.header.entries}
        if table["version"] != VERSION:
            raise FileDamaged(path.name, f"it is a saved state of version {table['version']}, this is {VERSION}")
        return SavedState(
            step=int(table["step"]),
            fingerprint=str(table["fingerprint"]),
            factors=held[FACTORS],
            optimiser={k.removeprefix(OPTIMISER): tensor for k, tensor in held.items() if k.startswith(OPTIMISER)},
            errors_at_start=[float(number) for number in held[ERRORS]],
            losses=[float(number) for number in held[LOSSES]],
            history=[(int(step), float(value)) for step, value in table["history"]],
            loss_scale=float(table["loss_scale"]),
        )
    except FileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FileDamaged(
            path.name, f"it is no saved state of a training ({error})", "Delete it to train anew."
        ) from None
