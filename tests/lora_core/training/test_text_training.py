"""Text encoders that are trained with the model: read at every step, at their own rate, and left as they were found."""

import contextlib

import pytest
import torch
from lora_pack.lora_core.errors import BadTraining

from .fakes import FakeDenoiser, FakeTextEncoder, factors, pictures, trainer_of


def test_the_error_falls_further_with_the_text_encoder() -> None:
    """Its layers alone, as a share of the learning rate shows: the same run with a rate of 0 for them ends higher."""
    ends = []
    for share in (0.0, 4.0):
        trainer = trainer_of(text=FakeTextEncoder(), steps=60, validate_every=60, text_encoder_lr=share)
        list(trainer.run())
        ends.append(trainer.history[-1][1])
    assert ends[1] < ends[0] < 0.999


def test_captions_are_read_at_every_step_and_dropped_ones_are_empty() -> None:
    text = FakeTextEncoder()
    captions = {sample.caption for sample in pictures((4, 4), (4, 4), (4, 6))}
    trainer = trainer_of(text=text, steps=12, batch=3, caption_dropout=0.5)
    with contextlib.closing(trainer.run()) as run:
        next(run)
        assert set(text.read) == captions  # the validation drops none
        text.read.clear()
        list(run)
    assert set(text.read) == {*captions, ""}


def test_the_start_of_the_model_and_what_is_drawn_do_not_depend_on_the_text_encoder() -> None:
    alone, both = trainer_of(), trainer_of(text=FakeTextEncoder())
    assert torch.equal(both.parameters.groups[0], alone.parameters.groups[0]) and len(both.parameters.groups) == 2
    first, other = alone.batches.next(), both.batches.next()
    assert first.numbers == other.numbers and torch.equal(first.noise, other.noise)


def test_model_and_text_encoder_are_the_same_after_a_run_a_cut_and_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    text = FakeTextEncoder()
    denoiser = FakeDenoiser(text=text)
    before = {name: tensor.clone() for name, tensor in text.model.state_dict().items()}
    list(trainer_of(denoiser, text=text).run())
    run = trainer_of(denoiser, text=text).run()
    next(run)
    run.close()
    monkeypatch.setattr(text, "encode", lambda captions: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        list(trainer_of(denoiser, text=text).run())
    assert all(torch.equal(before[name], tensor) for name, tensor in text.model.state_dict().items())
    assert not [name for name, one in text.modules().items() if "forward" in one.__dict__]
    assert text.opens == text.closes == denoiser.opens == denoiser.closes == 3


def test_the_file_is_of_both_and_the_same_every_time() -> None:
    first, second = (trainer_of(text=FakeTextEncoder()) for _ in range(2))
    list(first.run())
    list(second.run())
    assert torch.equal(factors(first), factors(second))
    lora = first.adapter("trained")
    parts = {key.partition("_transformer")[0] for key in lora.content.tensors if "transformer" in key}
    ups = [key for key in lora.content.tensors if key.endswith("lora_up.weight") and "self_attn" in key]
    assert len(ups) == 4, parts
    assert lora.header.metadata["ss_text_encoder_lr"] == "0.0025" and lora.header.metadata["ss_unet_lr"] == "0.005"
    assert "ss_text_encoder_lr" not in trainer_of().adapter("model alone").header.metadata


def test_a_text_encoder_without_layers_to_train_is_told() -> None:
    text = FakeTextEncoder()
    bare = FakeDenoiser()
    with pytest.raises(BadTraining, match="the text encoder has no layer that 'attention' names; disconnect clip"):
        trainer_of(bare, text=text)


def test_kept_pictures_are_held_to_both_untrained() -> None:
    (kept,) = pictures((4, 4), keep=True)
    trainer = trainer_of(samples=[kept, *pictures((4, 6))], text=FakeTextEncoder(), batch=1)
    drawn = next(batch for batch in iter(trainer.batches.next, None) if batch.numbers == [0])
    with contextlib.closing(trainer.run()) as run:
        next(run)
        assert float(trainer.loss(drawn).detach()) == 0.0
        trainer.parameters.groups[1].data.add_(torch.randn(trainer.parameters.groups[1].shape) * 0.3)
        assert float(trainer.loss(drawn).detach()) > 1e-6
        trainer.loss(drawn).backward()
        assert bool(trainer.parameters.gradient[-len(trainer.parameters.groups[1]) :].any())
