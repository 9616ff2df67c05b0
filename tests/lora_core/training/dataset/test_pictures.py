"""Every kind of picture file is decoded to what a person sees, and what can't be used is refused with the reason."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lora_pack.lora_core.training.dataset import picture_of_tensor, read_picture
from lora_pack.lora_core.training.dataset.pictures import MIN_SIDE, PictureRefused
from PIL import Image, ImageFile
from torch import Tensor

from .picture_files import gradient

HEIGHT, WIDTH = 40, 56
LEVEL = 1 / 255


def _expected() -> Tensor:
    return torch.tensor(np.array(gradient(HEIGHT, WIDTH))) / 255


def _read(image: Image.Image, path: Path, **options: object) -> Tensor:
    image.save(path, **options)
    return read_picture(path).pixels


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp"])
def test_a_picture_saved_without_loss_is_decoded_exactly(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    pixels = _read(gradient(HEIGHT, WIDTH), tmp_path / f"a.{ending}", **options)
    assert pixels.dtype == torch.float32 and pixels.shape == (HEIGHT, WIDTH, 3)
    assert torch.equal(pixels, _expected())


def test_a_transparent_picture_is_seen_over_white(tmp_path: Path) -> None:
    image = gradient(HEIGHT, WIDTH)
    image.putalpha(128)
    expected = _expected() * (128 / 255) + (1 - 128 / 255)
    assert torch.allclose(_read(image, tmp_path / "a.png"), expected, atol=1e-6)


def test_a_grey_picture_with_alpha_is_seen_over_white(tmp_path: Path) -> None:
    image = Image.new("LA", (WIDTH, HEIGHT), (100, 0))
    assert torch.equal(_read(image, tmp_path / "a.png"), torch.ones(HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_that_is_declared_transparent_is_seen_as_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (WIDTH, HEIGHT), 0)
    transparent = (0, 0, 0) if mode == "RGB" else 0
    assert float(_read(image, tmp_path / "solid.png").max()) == 0
    assert float(_read(image, tmp_path / "clear.png", transparency=transparent).min()) == 1


def test_a_picture_with_a_palette_has_its_palettes_colours(tmp_path: Path) -> None:
    image = gradient(HEIGHT, WIDTH).quantize(colors=64)
    assert torch.equal(_read(image, tmp_path / "a.png"), torch.tensor(np.array(image.convert("RGB"))) / 255)


def test_a_cmyk_picture_is_turned_into_red_green_and_blue(tmp_path: Path) -> None:
    cyan_and_black = Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 51))
    pixels = _read(cyan_and_black, tmp_path / "a.tiff")
    assert torch.allclose(pixels, torch.tensor([0.0, 0.8, 0.8]).expand(HEIGHT, WIDTH, 3), atol=2 * LEVEL)
    as_jpeg = _read(cyan_and_black, tmp_path / "a.jpg", quality=100)
    assert torch.allclose(as_jpeg, pixels, atol=4 * LEVEL)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bits_are_kept(tmp_path: Path, ending: str) -> None:
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = _read(Image.fromarray(levels), tmp_path / f"a.{ending}")
    expected = torch.tensor(levels.astype(np.float32) / 65535)
    assert torch.allclose(pixels, expected[..., None].expand(-1, -1, 3), atol=1e-6)
    assert len(pixels.unique()) > 1000


def test_16_bits_of_each_colour_are_read_with_at_least_8(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png_of_16_bit_colours(0x80FF, 0x0000, 0xFFFF))
    pixels = read_picture(tmp_path / "a.png").pixels
    assert torch.allclose(pixels, torch.tensor([0x80FF / 0xFFFF, 0, 1]).expand(32, 32, 3), atol=LEVEL)


def test_numbers_of_unknown_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 100_000, dtype=np.int32)).save(tmp_path / "a.tiff")
    Image.fromarray(np.full((HEIGHT, WIDTH), 7.5, dtype=np.float32)).save(tmp_path / "b.tiff")
    for name in ("a.tiff", "b.tiff"):
        with pytest.raises(PictureRefused, match="unknown what white is"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path, orientation: int) -> None:
    upright = _expected()
    stored = {  # how each orientation is stored: the inverse of how it is to be shown
        1: upright, 2: upright.flip(1), 3: upright.flip(0, 1), 4: upright.flip(0),
        5: upright.transpose(0, 1), 6: upright.rot90(1), 7: upright.flip(0, 1).transpose(0, 1), 8: upright.rot90(-1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray((stored * 255).round().byte().numpy())
    assert torch.equal(_read(image, tmp_path / "a.png", exif=exif), upright)


def test_only_the_first_picture_of_several_is_used_and_told(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(tmp_path / "a.gif")
    assert picture.notes == ("only the first of its 3 pictures is used",)
    assert torch.equal(picture.pixels[0, 0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (MIN_SIDE - 1, 500)])
def test_a_picture_with_a_side_of_too_few_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(PictureRefused, match=f"it is {size[0]} x {size[1]} pixels; both sides need at least"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (20_000, 6_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_refused_without_being_decoded(tmp_path: Path, width: int, height: int) -> None:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b""))
    with pytest.raises(PictureRefused, match=r"million.* scale it down"):
        read_picture(tmp_path / "a.png")


def test_a_picture_20000_pixels_wide_that_can_be_held_is_read(tmp_path: Path) -> None:
    Image.new("L", (20_000, 64), 51).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == (64, 20_000)


def test_a_picture_that_is_cut_off_is_refused_even_where_another_pack_lets_such_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-5000])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(PictureRefused, match="damaged"):
        read_picture(tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    for name, reason in (("empty.png", "empty"), ("text.png", "no picture"), ("gone.png", "can't be opened")):
        with pytest.raises(PictureRefused, match=reason):
            read_picture(tmp_path / name)


FILES = {"png": {}, "jpeg": {}, "gif": {}, "bmp": {}, "tiff": {"compression": "tiff_lzw"}, "webp": {}}


@given(
    kind=st.sampled_from(sorted(FILES)), damage=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), max_size=6)
)
def test_whatever_bytes_are_in_a_file_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[tuple[float, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
    gradient(HEIGHT, WIDTH).save(path, **FILES[kind])
    content = bytearray(path.read_bytes())
    for place, replacement in damage:
        start = int(place * len(content))
        content[start : start + len(replacement)] = replacement
    path.write_bytes(content)
    try:
        pixels = read_picture(path).pixels
    except PictureRefused:
        return
    assert pixels.dtype == torch.float32 and float(pixels.min()) >= 0 and float(pixels.max()) <= 1


def test_equal_bytes_have_equal_digests(tmp_path: Path) -> None:
    gradient(HEIGHT, WIDTH).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    gradient(HEIGHT, WIDTH + 1).save(tmp_path / "c.png")
    a, b, c = (read_picture(tmp_path / f"{name}.png").digest for name in "abc")
    assert a == b != c


def test_a_tensor_is_taken_as_a_picture_and_left_as_it_is() -> None:
    given_pixels = torch.rand(HEIGHT, WIDTH, 3)
    picture = picture_of_tensor(given_pixels)
    assert torch.equal(picture.pixels, given_pixels) and picture.pixels.data_ptr() != given_pixels.data_ptr()
    assert picture_of_tensor(given_pixels[..., :1]).pixels.shape == (HEIGHT, WIDTH, 3)
    clear = torch.cat([given_pixels, torch.zeros(HEIGHT, WIDTH, 1)], dim=-1)
    assert torch.equal(picture_of_tensor(clear).pixels, torch.ones(HEIGHT, WIDTH, 3))


def test_a_tensor_outside_of_0_to_1_is_clipped_and_told() -> None:
    picture = picture_of_tensor(torch.linspace(-1, 2, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3))
    assert (float(picture.pixels.min()), float(picture.pixels.max())) == (0, 1)
    assert picture.notes == ("its numbers, -1 to 2, were clipped to 0..1",)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (torch.full((64, 64, 3), float("nan")), "NaN"),
        (torch.zeros(64, 64, 2), "its shape"),
        (torch.zeros(1, 1, 3), "1 x 1 pixels"),
    ],
    ids=["NaN", "shape", "one pixel"],
)
def test_a_tensor_that_is_no_picture_is_refused(pixels: Tensor, reason: str) -> None:
    with pytest.raises(PictureRefused, match=reason):
        picture_of_tensor(pixels)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_of_16_bit_colours(red: int, green: int, blue: int) -> bytes:
    row = b"\0" + struct.pack(">HHH", red, green, blue) * 32
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    data = zlib.compress(row * 32)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
