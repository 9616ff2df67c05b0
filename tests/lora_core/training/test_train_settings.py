"""Bad settings and pictures are told all at once, before anything is touched."""

import math
from dataclasses import replace

import pytest
from lora_pack.lora_core.errors import BadTraining
from lora_pack.lora_core.training import TrainSettings

from .fakes import FakeDenoiser, pictures, trainer_of


def test_every_setting_that_makes_no_sense_is_named_at_once() -> None:
    bad = TrainSettings(
        steps=0, batch=0, rank=0, alpha=-1.0, learning_rate=math.nan, targets="ears", algorithm="magic", clip=-1.0
    )
    with pytest.raises(BadTraining) as caught:
        bad.check()
    assert [reason.split()[0] for reason in caught.value.reasons] == [
        "targets", "algorithm", "steps", "batch", "rank", "alpha", "learning_rate", "clip",
    ]  # fmt: skip
    assert "attention + ff" in str(caught.value)


def test_the_defaults_make_sense_and_fit_the_length() -> None:
    TrainSettings().check()
    assert [TrainSettings(steps=steps).rate for steps in (50, 200, 500, 2000)] == [1e-3, 5e-4, 2e-4, 1e-4]
    assert TrainSettings(rank=8).alpha_of == 8


def test_bad_pictures_are_named_at_once() -> None:
    denoiser = FakeDenoiser()
    good, broken = pictures((4, 4), (4, 4))
    broken.latent[0, 0, 0] = math.inf
    with pytest.raises(BadTraining) as caught:
        trainer_of(denoiser, [replace(good, repeats=0), broken])
    assert len(caught.value.reasons) == 2 and "'1.png'" in str(caught.value) and "'0.png'" in str(caught.value)
    for nothing in ([], pictures((4, 4), keep=True)):
        with pytest.raises(BadTraining, match="no pictures to learn from"):
            trainer_of(denoiser, nothing)
    assert denoiser.opens == denoiser.forwards == 0


def test_a_rank_above_what_a_layer_can_have_is_told() -> None:
    trainer = trainer_of(rank=9, steps=1)
    *_, report = trainer.run()
    assert any("2 layers are too small for rank 9" in note for note in report.notes)
    assert report.loss is not None and math.isfinite(report.loss)
