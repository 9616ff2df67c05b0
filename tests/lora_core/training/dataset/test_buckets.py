"""The size that each picture is trained at, and what is cut away."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lora_pack.lora_core.errors import BadSetting
from lora_pack.lora_core.training.dataset.buckets import WIDEST, Bucket, bucket_for, buckets, fit

from .picture_files import gradient


@given(resolution=st.integers(8, 1200), step=st.integers(8, 128))
def test_every_bucket_keeps_to_the_budget_and_the_step(resolution: int, step: int) -> None:
    if resolution < step:
        with pytest.raises(BadSetting, match="at least the step"):
            buckets(resolution, step)
        return
    made = buckets(resolution, step)
    assert Bucket(resolution // step * step, resolution // step * step) in made
    for bucket in made:
        assert bucket.height % step == bucket.width % step == 0
        assert bucket.height * bucket.width <= resolution**2
        assert max(bucket.height, bucket.width) <= WIDEST * min(bucket.height, bucket.width)
        assert Bucket(bucket.width, bucket.height) in made


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), Bucket(512, 512)),
        ((3000, 2000), Bucket(640, 384)),
        ((1080, 1920), Bucket(384, 640)),
        ((64, 64), Bucket(512, 512)),
        ((64, 20_000), Bucket(256, 1024)),
    ],
)
def test_the_bucket_has_the_nearest_aspect_ratio(size: tuple[int, int], expected: Bucket) -> None:
    assert bucket_for(size, 512, 64) == expected


def test_a_picture_of_its_buckets_size_is_left_as_it_is() -> None:
    pixels = torch.rand(64, 128, 3)
    fitted = fit(pixels, Bucket(64, 128))
    assert torch.equal(fitted.pixels, pixels)
    assert (fitted.crop, fitted.enlargement, fitted.kept) == ((0, 0), 1.0, 1.0)


def test_what_stands_over_is_cut_away_evenly_and_told() -> None:
    pixels = torch.tensor(np.array(gradient(100, 300))) / 255
    fitted = fit(pixels, Bucket(100, 100))
    assert torch.equal(fitted.pixels, pixels[:, 100:200])
    assert fitted.crop == (0, 100)
    assert fitted.kept == pytest.approx(1 / 3)


def test_a_picture_is_made_smaller_as_pillow_makes_it() -> None:
    from PIL import Image

    image = gradient(480, 640)
    fitted = fit(torch.tensor(np.array(image)) / 255, Bucket(96, 96))
    peer = np.array(image.resize((128, 96), Image.Resampling.BICUBIC))[:, 16:112] / 255
    assert fitted.crop == (0, 16) and fitted.enlargement == pytest.approx(0.2)
    assert np.abs(fitted.pixels.numpy() - peer).max() < 2 / 255


def test_fine_stripes_become_grey_and_no_pattern() -> None:
    stripes = torch.zeros(512, 512, 3)
    stripes[::2] = 1.0
    small = fit(stripes, Bucket(64, 64)).pixels
    assert torch.allclose(small[4:-4], torch.tensor(0.5), atol=0.02)


@given(height=st.integers(32, 700), width=st.integers(32, 700))
def test_every_picture_fills_its_bucket(height: int, width: int) -> None:
    bucket = bucket_for((height, width), 128, 32)
    fitted = fit(torch.full((height, width, 3), 0.25), bucket)
    assert fitted.pixels.shape == (bucket.height, bucket.width, 3)
    assert torch.allclose(fitted.pixels, torch.tensor(0.25), atol=1e-5)
    assert 0 < fitted.kept <= 1
