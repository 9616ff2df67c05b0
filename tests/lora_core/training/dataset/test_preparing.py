"""A training set of pictures: what is in it, what is told, and that one error names all pictures that can't be used."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import BadPictures, BadSetting, NoPictures
from lora_pack.lora_core.training.dataset import (
    EncodedCache,
    Encoders,
    GivenPicture,
    MemoryCache,
    PictureSettings,
    Prepared,
    find_pictures,
    prepare,
    read_picture,
)
from lora_pack.lora_core.training.dataset.captions import captions_for, prompts_to_keep, with_trigger, without_trigger
from lora_pack.lora_core.training.dataset.contact_sheet import CELL, contact_sheet, thumbnail
from torch import Tensor

from .picture_files import save_pictures

SETTINGS = PictureSettings(resolution=64, step=16)


class _Host:
    """Encodes a picture to the means of its 8 x 8 blocks and a caption to its length, and keeps count."""

    def __init__(self, vae: str | None = "vae", clip: str | None = "clip") -> None:
        self.pictures: list[tuple[int, ...]] = []
        self.captions: list[str] = []
        self.encoders = Encoders(
            encode_picture=self._picture,
            encode_text=self._text,
            decode=lambda latents: latents.movedim(1, -1),
            factor=8,
            picture_fingerprint=vae,
            text_fingerprint=lambda _: clip,
        )

    def _picture(self, pixels: Tensor) -> Tensor:
        self.pictures.append(tuple(pixels.shape))
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)

    def _text(self, caption: str) -> Any:
        self.captions.append(caption)
        return [[torch.full((1, 1, 1), float(len(caption))), {}]]


def _ignore(_done: int, _of: int) -> None:
    pass


def _given(folder: Path) -> Sequence[GivenPicture]:
    return [
        GivenPicture(
            name=file.name,
            load=partial(read_picture, file.path),
            caption=file.caption,
            repeats=file.repeats,
            problem=file.problem,
        )
        for file in find_pictures(folder).files
    ]


def _prepare(
    folder: Path,
    host: _Host | None = None,
    settings: PictureSettings = SETTINGS,
    memory: MemoryCache | None = None,
    disk: Path | None = None,
) -> Prepared:
    cache = EncodedCache(MemoryCache(10**9) if memory is None else memory, disk)
    return prepare(folder.name, _given(folder), (host or _Host()).encoders, settings, cache, _ignore)


def test_a_sample_has_its_latent_caption_size_crop_and_repeats(tmp_path: Path) -> None:
    save_pictures(tmp_path / "3_cat", "a.png", size=(64, 160))
    (tmp_path / "3_cat" / "a.txt").write_text("a grey cat")
    settings = PictureSettings(resolution=64, step=16, trigger="ohwx", repeats=2)
    sample = _prepare(tmp_path, settings=settings).training_set.samples[0]
    assert sample.latent.shape == (3, 48 // 8, 80 // 8)
    assert (sample.name, sample.caption, sample.repeats) == ("3_cat/a.png", "ohwx, a grey cat", 6)
    assert (sample.size, sample.crop) == ((64, 160), (0, 20))
    assert float(sample.conditioning[0][0]) == len("ohwx, a grey cat")


def test_only_the_batch_axis_of_a_latent_goes(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    host = _Host()
    frames = Encoders(
        encode_picture=lambda pixels: torch.zeros(1, 16, 1, pixels.shape[1] // 8, pixels.shape[2] // 8),
        encode_text=host.encoders.encode_text,
        decode=host.encoders.decode,
        factor=8,
        picture_fingerprint=None,
        text_fingerprint=lambda _: None,
    )
    made = prepare("x", _given(tmp_path), frames, SETTINGS, EncodedCache(MemoryCache(10**6)), _ignore)
    assert made.training_set.samples[0].latent.shape == (16, 1, 8, 8)


def test_one_error_names_every_picture_that_can_not_be_used_with_its_reason(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png", "d.png", "f.png", "z.png")
    save_pictures(tmp_path, "c.png", size=(1, 1))
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "d.txt").write_bytes(b"\xff\xff")
    host = _Host()
    with pytest.raises(BadPictures) as caught:
        _prepare(tmp_path, host)
    text = str(caught.value)
    assert "3 of 6 pictures can't be used" in text
    assert all(reason in text for reason in ("b.png (it is damaged", "c.png (it is 1 x 1", "d.png (its caption"))
    assert '"skip"' in text
    assert len(host.pictures) == 1  # nothing is encoded after the first bad one


def test_bad_pictures_are_left_out_when_asked_and_told(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    made = _prepare(tmp_path, settings=PictureSettings(resolution=64, step=16, skip_bad=True))
    assert [sample.name for sample in made.training_set.samples] == ["a.png", "c.png"]
    assert any("left out, as asked: b.png" in note for note in made.training_set.notes)
    assert "b.png" in made.report


def test_no_good_picture_is_an_error_even_when_bad_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(NoPictures, match=r"b\.png \(it is damaged"):
        _prepare(tmp_path, settings=PictureSettings(resolution=64, step=16, skip_bad=True))
    with pytest.raises(NoPictures, match="no pictures to train on"):
        prepare("x", [], _Host().encoders, SETTINGS, EncodedCache(MemoryCache(1)), _ignore)


def test_missing_captions_are_told_and_the_trigger_stands_for_them(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("cat")
    assert "1 pictures have no caption and are trained with no words: b.png" in _prepare(tmp_path).report
    made = _prepare(tmp_path, settings=PictureSettings(resolution=64, step=16, trigger="ohwx"))
    assert [sample.caption for sample in made.training_set.samples] == ["ohwx, cat", "ohwx"]
    assert 'trained with the trigger "ohwx": b.png' in made.report


def test_enlarging_cutting_and_twins_are_told(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png", size=(32, 32))
    save_pictures(tmp_path, "b.png", size=(40, 4000))
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    report = _prepare(tmp_path).report
    assert "a.png (2.00 times)" in report
    assert "4% of b.png" in report
    assert "c.png is the same picture as a.png" in report


@pytest.mark.parametrize("changed", ["picture", "bucket", "vae"])
def test_a_latent_is_made_anew_only_when_something_it_follows_from_changed(tmp_path: Path, changed: str) -> None:
    save_pictures(tmp_path, "a.png", "b.png")
    memory = MemoryCache(10**9)
    _prepare(tmp_path, memory=memory)
    again = _Host()
    _prepare(tmp_path, again, memory=memory)
    assert (again.pictures, again.captions) == ([], [])
    other = _Host(vae="other" if changed == "vae" else "vae")
    if changed == "picture":
        (tmp_path / "a.png").write_bytes(_recoloured(tmp_path / "a.png"))
    resolution = 96 if changed == "bucket" else 64
    _prepare(tmp_path, other, PictureSettings(resolution=resolution, step=16), memory)
    assert len(other.pictures) == {"picture": 1, "bucket": 2, "vae": 2}[changed]
    assert other.captions == []


def test_a_caption_is_encoded_once_however_many_pictures_have_it(tmp_path: Path) -> None:
    save_pictures(tmp_path / "1_cat", "a.png", "b.png")
    save_pictures(tmp_path / "1_dog", "a.png")
    host, memory = _Host(), MemoryCache(10**9)
    _prepare(tmp_path, host, memory=memory)
    assert host.captions == ["cat", "dog"]
    other = _Host(clip="other")
    _prepare(tmp_path, other, memory=memory)
    assert other.captions == ["cat", "dog"]


def test_encoders_that_can_not_be_told_apart_are_asked_every_time(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    memory = MemoryCache(10**9)
    for _ in range(2):
        host = _Host(vae=None, clip=None)
        _prepare(tmp_path, host, memory=memory)
        assert (len(host.pictures), len(host.captions)) == (1, 1)


def test_what_is_on_disk_is_used_after_a_restart(tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures", "a.png", "b.png")
    first = _prepare(tmp_path / "pictures", disk=tmp_path / "cache")
    host = _Host()
    second = _prepare(tmp_path / "pictures", host, disk=tmp_path / "cache")
    assert host.pictures == [] and host.captions == []
    for a, b in zip(first.training_set.samples, second.training_set.samples, strict=True):
        assert torch.equal(a.latent, b.latent)


def test_progress_is_told_before_each_picture_and_can_end_the_run(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png", "b.png", "c.png")
    told: list[tuple[int, int]] = []
    host, memory = _Host(), MemoryCache(10**9)

    def stop_at_two(done: int, of: int) -> None:
        told.append((done, of))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("x", _given(tmp_path), host.encoders, SETTINGS, EncodedCache(memory), stop_at_two)
    assert told == [(0, 3), (1, 3), (2, 3)]
    again = _Host()
    _prepare(tmp_path, again, memory=memory)
    assert len(again.pictures) == 1  # the two done before are kept


def test_a_step_that_the_vae_can_not_divide_is_refused(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    with pytest.raises(BadSetting, match="multiple of 8"):
        _prepare(tmp_path, settings=PictureSettings(resolution=64, step=20))
    with pytest.raises(BadSetting, match="repeats is 0"):
        _prepare(tmp_path, settings=PictureSettings(repeats=0))


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("a cat", "", "a cat"),
        ("a cat", "ohwx", "ohwx, a cat"),
        ("", " ohwx, ", "ohwx"),
        ("a photo of OHWX cat", "ohwx", "a photo of OHWX cat"),
        ("ohwxy cat", "ohwx", "ohwx, ohwxy cat"),
        ("in (c++) style", "c++", "in (c++) style"),
    ],
)
def test_the_trigger_stands_in_every_caption_once(caption: str, trigger: str, expected: str) -> None:
    assert with_trigger(caption, trigger) == expected


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("ohwx, a cat", "ohwx", "a cat"),
        ("a photo of OHWX cat", " ohwx, ", "a photo of cat"),
        ("a cat, ohwx", "ohwx", "a cat"),
        ("ohwx", "ohwx", ""),
        ("ohwxy cat", "ohwx", "ohwxy cat"),
        ("in c++, style", "c++", "in style"),
        ("a cat", "", "a cat"),
    ],
)
def test_a_caption_is_told_without_its_trigger(caption: str, trigger: str, expected: str) -> None:
    assert without_trigger(caption, trigger) == expected


def test_the_prompts_to_keep_may_be_the_captions_without_their_trigger() -> None:
    captions = ["ohwx, a cat", "ohwx, a dog", "ohwx, a cat"]
    assert prompts_to_keep(["a dog", "<captions>", "a hat"], captions, "ohwx") == ["a dog", "a cat", "a hat"]
    assert prompts_to_keep(["a dog", "a dog"], captions, "") == ["a dog", "a dog"]
    with pytest.raises(BadSetting, match="no trigger"):
        prompts_to_keep(["<captions>"], captions, " , ")


def test_a_training_set_knows_its_trigger(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    prepared = _prepare(tmp_path, settings=PictureSettings(resolution=64, step=8, trigger="ohwx"))
    assert prepared.training_set.trigger == "ohwx"


@pytest.mark.parametrize(
    ("pictures", "texts", "expected"),
    [
        (2, ["a\nb"], ["a", "b"]),
        (2, ["a\nb\n\n"], ["a", "b"]),
        (3, ["a\n\nc"], ["a", "", "c"]),
        (2, ["\nb\n"], ["", "b"]),
        (3, ["a cat\n"], ["a cat"] * 3),
        (2, [""], ["", ""]),
        (2, ["a\nline", "b"], ["a line", "b"]),
        (2, [], ["", ""]),
    ],
)
def test_captions_are_dealt_out(pictures: int, texts: list[str], expected: list[str]) -> None:
    assert captions_for(pictures, texts) == expected


def test_captions_in_another_number_are_refused() -> None:
    for texts in (["a\nb"], ["a", "b"], ["a\nb\nc\nd"]):
        with pytest.raises(BadSetting, match=r"captions for 3 pictures"):
            captions_for(3, texts)


def test_the_sheet_shows_every_picture_whole_in_a_cell_of_its_own() -> None:
    colours = [torch.tensor(colour) for colour in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))]
    cells = [thumbnail(colour.expand(40, 80, 3)) for colour in colours]
    sheet = contact_sheet(cells)
    assert sheet.shape[0] == sheet.shape[1] > 2 * CELL
    for colour in colours:
        shown = (sheet - colour).abs().amax(-1) < 0.01
        assert int(shown.sum()) == CELL * CELL // 2


def _recoloured(path: Path) -> bytes:
    from io import BytesIO

    from PIL import Image

    image = Image.open(path)
    image.putpixel((5, 5), (9, 9, 9))
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
