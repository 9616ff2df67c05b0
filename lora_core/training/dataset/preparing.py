"""Makes a training set of pictures: reads, cuts, encodes each with its caption, and says what became of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import BadPictures, BadSetting, NoPictures, listed
from .buckets import Bucket, FittedPicture, bucket_for, fit
from .caching import EncodedCache, content_key
from .captions import with_trigger
from .contact_sheet import AT_MOST, contact_sheet, thumbnail
from .pictures import Picture, PictureRefused
from .sample import TrainingSet, TrainSample

SKIP_ADVICE = 'Mend or remove them, or set on_bad_picture to "skip" to train without them.'


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPicture:
    """A picture that is to be trained on, not yet decoded."""

    name: str
    load: Callable[[], Picture]  # raises PictureRefused
    caption: str | None  # None: it has none
    repeats: int = 1  # times per epoch
    problem: str = ""  # why it can't be used, known beforehand


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The host's VAE and text encoder, and what tells them from others."""

    encode_picture: Callable[[Tensor], Tensor]  # [1, h, w, 3] in 0..1 -> latents [1, channels, *picture]
    encode_text: Callable[[str], Any]  # caption -> conditioning
    decode: Callable[[Tensor], Tensor]  # latents [n, channels, *picture] -> pictures [n, h, w, 3], 0..1
    factor: int  # pixels along a side per latent cell
    picture_fingerprint: str | None  # of the VAE's weights; None: what it encodes is not kept
    text_fingerprint: Callable[[str], str | None]  # of the text encoder, for a caption; None: as above
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """How pictures are seen in training."""

    resolution: int = 512  # pixels; the side of the square that has as many
    step: int = 64  # pixels; the sides of every bucket are multiples of it
    trigger: str = ""  # put in front of captions that do not have it
    repeats: int = 1  # times per epoch, multiplied with a picture's own
    skip_bad: bool = False  # leave pictures out that can't be used, and tell so


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A training set, what is to be said of it, and how it looks."""

    training_set: TrainingSet
    report: str
    sheet: Tensor  # [height, width, 3], 0..1: the first pictures as they are seen in training


def prepare(
    where: str,
    given: Sequence[GivenPicture],
    encoders: Encoders,
    settings: PictureSettings,
    cache: EncodedCache,
    on_picture: Callable[[int, int], None],
    found_notes: Sequence[str] = (),
) -> Prepared:
    """Read, cut and encode pictures.

    Args:
        where: what the pictures are called in an error, such as the name of their folder.
        given: at least one picture.
        encoders: of the host.
        settings: how the pictures are seen.
        cache: of what was encoded before; it is added to.
        on_picture: told the number of pictures done and of all; what it raises ends the work, and the cache stays.
        found_notes: what is to be told of how the pictures were found.

    Raises:
        BadPictures: some can't be used and `settings.skip_bad` is off; names all, after having read all.
        NoPictures: none is given, or none can be used.
        BadSetting: numbers that do not go together.
    """
    _check(where, given, encoders, settings)
    work = _Work(encoders, settings, cache)
    for number, picture in enumerate(given):
        on_picture(number, len(given))
        work.add(picture)
    on_picture(len(given), len(given))
    if work.bad and not settings.skip_bad:
        raise BadPictures(where, work.bad, len(given), SKIP_ADVICE)
    if not work.samples:
        raise NoPictures(f"{where}: none of its {len(given)} pictures can be used: {listed(work.bad)}.")
    notes = (*found_notes, *work.notes(), *encoders.notes, *cache.notes())
    training_set = TrainingSet(
        samples=tuple(work.samples), encode_text=encoders.encode_text, decode=encoders.decode,
        trigger=settings.trigger, notes=notes,
    )  # fmt: skip
    report = "\n".join([*work.lines(), *(f"Note: {note}." for note in notes)])
    return Prepared(training_set, report, contact_sheet(work.thumbnails))


def _check(where: str, given: Sequence[GivenPicture], encoders: Encoders, settings: PictureSettings) -> None:
    if not given:
        raise NoPictures(f"{where}: there are no pictures to train on.")
    if settings.repeats < 1:
        raise BadSetting(f"repeats is {settings.repeats}; a picture is seen at least once per epoch")
    if settings.step % encoders.factor:
        raise BadSetting(
            f"step is {settings.step} pixels, but this VAE has one latent cell per {encoders.factor} pixels; "
            f"use a multiple of {encoders.factor}"
        )


@dataclass(slots=True, eq=False)
class _Work:
    """What has been made of the pictures so far."""

    encoders: Encoders
    settings: PictureSettings
    cache: EncodedCache
    samples: list[TrainSample] = field(default_factory=list[TrainSample])
    thumbnails: list[Tensor] = field(default_factory=list[Tensor])
    bad: list[str] = field(default_factory=list[str])
    sizes: Counter[Bucket] = field(default_factory=Counter[Bucket])
    kept: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])  # share of the area, and name
    enlarged: list[str] = field(default_factory=list[str])
    remarks: list[str] = field(default_factory=list[str])
    uncaptioned: list[str] = field(default_factory=list[str])
    digests: dict[str, str] = field(default_factory=dict[str, str])  # of a picture's bytes -> its name

    def add(self, given: GivenPicture) -> None:
        """Read one picture; encode it unless a bad one has ended the run already."""
        try:
            if given.problem:
                raise PictureRefused(given.problem)
            picture = given.load()
        except PictureRefused as error:
            self.bad.append(f"{given.name} ({error})")
            return
        if self.bad and not self.settings.skip_bad:
            return
        bucket = bucket_for(picture.size, self.settings.resolution, self.settings.step)
        with torch.inference_mode(False), torch.no_grad():
            fitted = fit(picture.pixels, bucket)
        self._tell(given, picture, bucket, fitted)
        caption = with_trigger(given.caption or "", self.settings.trigger)
        self.samples.append(
            TrainSample(
                latent=self._latent(picture, bucket, fitted),
                conditioning=self._conditioning(caption),
                caption=caption,
                name=given.name,
                size=picture.size,
                crop=fitted.crop,
                repeats=given.repeats * self.settings.repeats,
            )
        )

    def _latent(self, picture: Picture, bucket: Bucket, fitted: FittedPicture) -> Tensor:
        """[channels, *picture]"""
        vae = self.encoders.picture_fingerprint
        key = None if vae is None else content_key("latent", picture.digest, str(bucket), vae)
        return self.cache.get(key, lambda: self.encoders.encode_picture(fitted.pixels[None]))[0]

    def _conditioning(self, caption: str) -> Any:
        encoder = self.encoders.text_fingerprint(caption)
        key = None if encoder is None else content_key("conditioning", caption, encoder)
        return self.cache.get(key, lambda: self.encoders.encode_text(caption))

    def _tell(self, given: GivenPicture, picture: Picture, bucket: Bucket, fitted: FittedPicture) -> None:
        if len(self.thumbnails) < AT_MOST:
            self.thumbnails.append(thumbnail(fitted.pixels))
        self.sizes[bucket] += 1
        self.kept.append((fitted.kept, given.name))
        if fitted.enlargement > 1:
            self.enlarged.append(f"{given.name} ({fitted.enlargement:.2f} times)")
        if not given.caption:
            self.uncaptioned.append(given.name)
        self.remarks += [f"{given.name}: {note}" for note in picture.notes]
        twin = self.digests.setdefault(picture.digest, given.name)
        if twin != given.name:
            self.remarks.append(f"{given.name} is the same picture as {twin}")

    def lines(self) -> list[str]:
        """What was made, in numbers."""
        per_epoch = sum(sample.repeats for sample in self.samples)
        sizes = ", ".join(f"{bucket} ({count})" for bucket, count in sorted(self.sizes.items()))
        least, name = min(self.kept)
        mean = sum(share for share, _ in self.kept) / len(self.kept)
        return [
            f"{len(self.samples)} pictures, {per_epoch} per epoch.",
            f"Sizes in pixels: {sizes}. Kept of a picture's area: {mean:.0%} on average, {least:.0%} of {name}.",
            f"Encoded now: {self.cache.made}; found from before: {self.cache.found}.",
        ]

    def notes(self) -> list[str]:
        """What a person should know."""
        notes: list[str] = []
        if self.bad:
            notes.append(f"{len(self.bad)} pictures were left out, as asked: {listed(self.bad)}")
        if self.uncaptioned:
            seen = f'the trigger "{self.settings.trigger.strip()}"' if self.settings.trigger.strip() else "no words"
            notes.append(
                f"{len(self.uncaptioned)} pictures have no caption and are trained with {seen}: "
                f"{listed(self.uncaptioned)}"
            )
        if self.enlarged:
            resolution = self.settings.resolution
            notes.append(
                f"{len(self.enlarged)} pictures have fewer pixels than a resolution of {resolution} asks for and were "
                f"enlarged: {listed(self.enlarged)}"
            )
        if self.remarks:
            notes.append(listed(self.remarks))
        return notes
