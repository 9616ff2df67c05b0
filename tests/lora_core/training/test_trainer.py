"""A whole training on a tiny model: it learns, leaves the model alone, can be cut short, and is the same every time."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import TrainingFailed
from lora_pack.lora_core.training.loss_scale import START
from torch import Tensor

from .fakes import SETTINGS, FakeDenoiser, factors, files, moments, pictures, trainer_of

State = tuple[dict[str, tuple[int, Tensor]], dict[str, set[str]]]


def _state(denoiser: FakeDenoiser) -> State:
    weights = {name: (id(tensor), tensor.clone()) for name, tensor in denoiser.model.named_parameters()}
    return weights, {name: set(one.__dict__) for name, one in denoiser.model.named_modules()}


def _assert_untouched(denoiser: FakeDenoiser, before: State) -> None:
    weights, insides = _state(denoiser)
    for name, (identity, tensor) in before[0].items():
        assert weights[name][0] == identity and torch.equal(weights[name][1], tensor)
    assert insides == before[1]
    assert denoiser.opens == denoiser.closes


def _until(trainer: Any, step: int) -> None:
    with contextlib.closing(trainer.run()) as run:
        next(report for report in run if report.step == step)


@pytest.mark.parametrize("objective", ["eps", "v", "flow"])
def test_the_validation_error_falls(objective: str) -> None:
    trainer = trainer_of(FakeDenoiser(objective), steps=60, validate_every=30, algorithm="locon", targets="all")
    list(trainer.run())
    (_, first), (_, middle), (_, last) = trainer.history
    assert first == 1.0 and last < middle < 0.99


@pytest.mark.parametrize("checkpointing", ["on", "off"])
def test_the_model_is_the_same_after_a_whole_run(checkpointing: str) -> None:
    denoiser = FakeDenoiser()
    before = _state(denoiser)
    list(trainer_of(denoiser, checkpointing=checkpointing).run())
    _assert_untouched(denoiser, before)


def test_the_model_is_the_same_after_a_run_that_is_closed_or_fails_outside() -> None:
    denoiser = FakeDenoiser()
    before = _state(denoiser)
    run = trainer_of(denoiser).run()
    next(run)
    assert _state(denoiser)[1] != before[1]
    run.close()
    _assert_untouched(denoiser, before)
    with pytest.raises(KeyboardInterrupt):
        with contextlib.closing(trainer_of(denoiser).run()) as run:
            for _ in run:
                raise KeyboardInterrupt
    _assert_untouched(denoiser, before)


def test_the_model_is_the_same_after_an_error_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = FakeDenoiser()
    before = _state(denoiser)
    trainer = trainer_of(denoiser)
    monkeypatch.setattr(denoiser, "sigmas_at", lambda positions: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        list(trainer.run())
    _assert_untouched(denoiser, before)


def test_what_was_learned_before_a_cut_is_kept() -> None:
    cut, whole = trainer_of(), trainer_of()
    _until(cut, 5)
    expected = next(factors(whole) for report in whole.run() if report.step == 5)
    assert cut.step == 5 and torch.equal(factors(cut), expected)


def test_the_same_seed_gives_the_same_file_to_the_byte_whatever_else_draws_random_numbers(tmp_path: Path) -> None:
    first, second, other = trainer_of(), trainer_of(), trainer_of(seed=1)
    list(first.run())
    for _ in second.run():
        torch.randn(7)
    list(other.run())
    assert files(first, tmp_path, "a") == files(second, tmp_path, "b") != files(other, tmp_path, "c")


def test_validation_disturbs_nothing() -> None:
    plain, measured = trainer_of(validate_every=0), trainer_of(validate_every=2)
    list(plain.run())
    list(measured.run())
    assert torch.equal(factors(plain), factors(measured)) and plain.losses == measured.losses


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_validation_takes_no_more_pictures_at_once_than_a_step(batch: int) -> None:
    denoiser = FakeDenoiser()
    list(trainer_of(denoiser, batch=batch, steps=2, validate_every=1).run())
    assert max(shape[0] for shape in denoiser.asked) <= batch


def test_the_validation_asks_the_same_whatever_the_batch() -> None:
    whole, singly = trainer_of(batch=4, steps=1), trainer_of(batch=1, steps=1)
    for trainer in (whole, singly):
        _until(trainer, 0)
    torch.testing.assert_close(whole.state().errors_at_start, singly.state().errors_at_start)


def test_recomputing_activations_changes_no_number() -> None:
    plain, twice = trainer_of(checkpointing="off"), trainer_of(checkpointing="on")
    list(plain.run())
    list(twice.run())
    torch.testing.assert_close(factors(plain), factors(twice), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("free", "on"), [(1, True), (1 << 40, False)])
def test_recomputing_is_decided_by_the_free_memory_for_the_largest_picture_and_told(free: int, on: bool) -> None:
    denoiser = FakeDenoiser()
    denoiser.free = free
    with contextlib.closing(trainer_of(denoiser, checkpointing="auto").run()) as run:
        report = next(run)
        assert any(f"checkpointing is {'on' if on else 'off'}: " in note for note in report.notes)
        assert denoiser.model.diffusion_model.blocks[0].recomputes is on  # type: ignore[union-attr, index]
    assert denoiser.asked[0] == (1, 8, 4, 6)


def test_a_loss_that_is_no_number_stops_with_the_state_before_that_step() -> None:
    denoiser = FakeDenoiser()
    denoiser.poison_at = 7  # four forwards look at the untrained model, two for each picture; the fifth is step 1
    trainer = trainer_of(denoiser, samples=pictures((4, 4), (4, 4)))
    with pytest.raises(TrainingFailed, match="after step 2: the loss is nan at step 3") as caught:
        list(trainer.run())
    healthy = trainer_of(samples=pictures((4, 4), (4, 4)))
    _until(healthy, 2)
    assert caught.value.step == trainer.step == healthy.step == len(trainer.losses) == 2
    assert torch.equal(factors(trainer), factors(healthy))
    assert all(torch.equal(moments(trainer)[name], moment) for name, moment in moments(healthy).items())
    assert moments(trainer)["0.step"] == 2


def test_a_gradient_that_is_no_number_is_never_stepped_along() -> None:
    denoiser = FakeDenoiser()
    trainer = trainer_of(denoiser)
    with pytest.raises(TrainingFailed, match="after step 2: the gradient is nan at step 3"):
        for report in trainer.run():
            denoiser.loudness = float("nan") if report.step == 2 else 1.0
    healthy = trainer_of()
    _until(healthy, 2)
    assert torch.equal(factors(trainer), factors(healthy))


def test_an_overflow_in_half_precision_halves_the_scale_and_loses_no_step(tmp_path: Path) -> None:
    denoiser = FakeDenoiser(dtype=torch.float16)
    calm, trainer = trainer_of(FakeDenoiser(dtype=torch.float16), clip=0), trainer_of(denoiser, clip=0)
    assert calm.state().loss_scale == trainer.state().loss_scale == START == 2.0**14
    list(calm.run())
    assert calm.state().loss_scale == START
    denoiser.loudness = 256.0
    list(trainer.run())
    fallen = trainer.state().loss_scale
    assert trainer.step == SETTINGS["steps"] and 1.0 <= fallen < START
    assert bool(factors(trainer).isfinite().all())
    trainer.state_path = tmp_path / "state.safetensors"
    trainer.save()
    resumed = trainer_of(FakeDenoiser(dtype=torch.float16), state=trainer.state_path, clip=0)
    list(resumed.run())
    assert resumed.state().loss_scale == fallen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_have_no_scale(dtype: torch.dtype) -> None:
    assert trainer_of(FakeDenoiser(dtype=dtype)).state().loss_scale == 1.0


def test_half_precision_trains_as_float32_does() -> None:
    plain, half, small = (trainer_of(FakeDenoiser(dtype=d), steps=5) for d in
                          (torch.float32, torch.float16, torch.bfloat16))  # fmt: skip
    for one in (plain, half, small):
        list(one.run())
    assert half.losses == pytest.approx(plain.losses, rel=5e-3)
    assert small.losses == pytest.approx(plain.losses, rel=5e-2)
    assert factors(half).dtype == factors(small).dtype == torch.float32


def test_no_memory_stops_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    with pytest.raises(TrainingFailed, match=r"no memory left.*Make the batch"):
        for report in trainer.run():
            if report.step == 2:
                monkeypatch.setattr(trainer, "loss", lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError))
    assert trainer.step == 2


def test_pictures_to_keep_pull_towards_the_untrained_output() -> None:
    def pull(**settings: Any) -> tuple[float, float]:
        trainer = trainer_of(samples=pictures((4, 4), keep=True) + pictures((4, 6)), steps=1, batch=1, **settings)
        noise = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
        drawn = next(batch for batch in iter(trainer.batches.next, None) if batch.numbers == [0])
        drawn = type(drawn)([0], drawn.positions, noise, [False])
        before = float(trainer.loss(drawn).detach())
        rng = torch.Generator().manual_seed(2)
        trainer.parameters.whole.data.add_(torch.randn(trainer.parameters.whole.shape, generator=rng) * 0.1)
        run = trainer.run()
        next(run)  # the branches stand beside the layers now
        after = trainer.loss(drawn)
        after.backward()
        pulled = float(trainer.parameters.gradient.norm())
        run.close()
        assert before == 0.0 and float(after.detach()) > 1e-6
        return before, pulled

    assert pull()[1] > 0


def test_it_runs_where_the_host_forbids_gradients() -> None:
    plain = trainer_of()
    list(plain.run())
    denoiser = FakeDenoiser()
    with torch.inference_mode():
        inside = trainer_of(denoiser)
        modes = [torch.is_inference_mode_enabled() for _ in inside.run()]
    assert all(modes) and torch.equal(factors(plain), factors(inside))


def test_the_suggestion_to_stop_comes_when_nothing_gets_better() -> None:
    reports = list(trainer_of(learning_rate=1e-9, steps=5, validate_every=1).run())
    assert not any(report.suggestion for report in reports[:3]) and "stopping is safe" in reports[3].suggestion
