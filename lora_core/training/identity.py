"""What makes a training the one it is: what its result depends on, and in what another one differs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BadTraining
from ..files.stored_values import fingerprint
from ..names.target_layer import TargetLayer
from .dataset import TrainSample
from .settings import TrainSettings

RESULTS = 3  # another number where the same training has another result than before
SHORT = 12  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Identity:
    """Equal for trainings of which one can go on where the other stopped."""

    settings: str  # JSON of names and values
    layers: str  # hash of the layers to train
    pictures: str  # hash of the encoded pictures and their captions
    model: str  # fingerprints of the weights that are not trained; those that can't be told count as equal

    def text(self) -> str:
        """All of it, for a saved state."""
        return json.dumps([self.settings, self.layers, self.pictures, self.model])

    def short(self) -> str:
        """A hash for file names, SHORT hexadecimal digits."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:SHORT]

    def differences(self, text: str) -> list[str]:
        """In what the training of such a text is another one; empty if it is the same."""
        if text == self.text():
            return []
        try:
            settings, layers, pictures, model = json.loads(text)
            theirs, ours = json.loads(settings), json.loads(self.settings)
        except (TypeError, ValueError):
            return ["everything"]
        names = sorted({*theirs, *ours})
        found = [f"{n} ({theirs.get(n)}, now {ours.get(n)})" for n in names if theirs.get(n) != ours.get(n)]
        found += ["the layers of the model"] if layers != self.layers else []
        found += ["the weights of the model"] if layers == self.layers and model != self.model else []
        return found + (["the pictures or captions"] if pictures != self.pictures else [])


def identity_of(
    settings: TrainSettings,
    targets: Sequence[TargetLayer],
    samples: Sequence[TrainSample],
    latents: Sequence[Tensor],
    models: Sequence[str | None],
) -> Identity:
    """Of a training on these layers.

    Args:
        settings: how.
        targets: the layers that are trained.
        samples: what is learned from.
        latents: of the samples, as the model takes them.
        models: fingerprints of all models whose layers are trained.
    """
    layers = json.dumps([(target.path, list(target.shape)) for target in targets])
    data = hashlib.sha256()
    for sample, latent in zip(samples, latents, strict=True):
        data.update(json.dumps([sample.caption, sample.repeats, sample.keep, list(latent.shape)]).encode())
        data.update(latent.cpu().contiguous().numpy().tobytes())
    hashed = hashlib.sha256(layers.encode()).hexdigest()
    return Identity(settings.fingerprint(), hashed, data.hexdigest(), json.dumps(models))


def result_key(identity: Identity, captions: Sequence[Any], models: Sequence[str | None]) -> str | None:
    """Equal for trainings of one and the same result; None where that can't be told.

    captions: what stands for them: their conditionings, or the fingerprint of what reads them. models: fingerprints.
    """
    texts = fingerprint(captions)
    if texts is None or None in models:
        return None
    return hashlib.sha256(f"{RESULTS} {identity.text()} {texts}".encode()).hexdigest()


def check_samples(samples: Sequence[TrainSample]) -> None:
    """Raises BadTraining naming every sample that nothing can be learned from."""
    wrong = [
        f"'{s.name}' holds numbers that are not finite" for s in samples if not bool(torch.isfinite(s.latent).all())
    ]
    wrong += [f"'{s.name}' should be seen at least once, but has {s.repeats} repeats" for s in samples if s.repeats < 1]
    if not any(not sample.keep for sample in samples):
        wrong.append("there are no pictures to learn from")
    if wrong:
        raise BadTraining(wrong)
