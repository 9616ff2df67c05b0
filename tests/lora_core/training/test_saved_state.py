"""The state on disk: a killed training goes on to the same numbers, a bad file is told, no old one is lost."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lora_pack.lora_core.errors import BadTraining, FileError, FileNotWritten
from lora_pack.lora_core.files import safetensors_writer

from .fakes import FakeDenoiser, FakeTextEncoder, factors, files, long_trainer, moments, pictures, trainer_of

SCRIPT = Path(__file__).with_name("killed_run.py")


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["model", "model and text"])
def test_a_training_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path, one_thread: None, kind: str) -> None:
    state = tmp_path / "state.safetensors"
    command = [sys.executable, str(SCRIPT), str(state), kind]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 8:
            os.kill(child.pid, signal.SIGKILL)
            break
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    resumed, unbroken = long_trainer(state, kind), long_trainer(None, kind)
    first, *_, last = resumed.run()
    assert 6 < first.step < 40 and any("goes on from step" in note for note in first.notes)
    *_, wanted = unbroken.run()
    assert torch.equal(factors(resumed), factors(unbroken))
    assert all(torch.equal(moments(resumed)[name], moment) for name, moment in moments(unbroken).items())
    assert resumed.losses == unbroken.losses and resumed.history == unbroken.history
    assert last.validation == wanted.validation
    assert files(resumed, tmp_path, "a") == files(unbroken, tmp_path, "b")


def test_a_training_goes_on_where_the_host_forbids_gradients(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    unbroken, denoisers = trainer_of(), (FakeDenoiser(), FakeDenoiser())
    list(unbroken.run())
    with torch.inference_mode():
        cut = trainer_of(denoisers[0], state=state)
        with contextlib.closing(cut.run()) as run:
            next(report for report in run if report.step == 5)
        cut.save()
        resumed = trainer_of(denoisers[1], state=state)
        list(resumed.run())
    assert torch.equal(factors(resumed), factors(unbroken)) and resumed.losses == unbroken.losses


def test_a_full_disk_is_told_and_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state.safetensors"
    trainer = trainer_of(state=state, save_every=3)
    run = trainer.run()
    while trainer.step < 3:
        next(run)
    kept = state.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_writer.os, "fsync", full)
    with pytest.raises(FileNotWritten, match="No space left"):
        list(run)
    assert state.read_bytes() == kept and list(tmp_path.iterdir()) == [state]
    monkeypatch.undo()
    resumed = trainer_of(state=state, save_every=3)
    assert next(resumed.run()).step == 4


def test_a_state_of_another_training_is_refused_with_what_differs_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    trainer = trainer_of(state=state)
    with contextlib.closing(trainer.run()) as run:
        next(run)
        trainer.save()
    kept = state.read_bytes()
    others = [
        (trainer_of(state=state, seed=9, rank=2), r"rank \(4, now 2\), seed \(0, now 9\)"),
        (trainer_of(state=state, samples=pictures((4, 4))), "the pictures or captions"),
        (trainer_of(state=state, targets="all"), "the layers of the model"),
        (trainer_of(state=state, text=FakeTextEncoder()), "the layers of the model"),
    ]
    for other, words in others:
        with pytest.raises(BadTraining, match=words) as caught:
            list(other.run())
        assert "choose another file name, or delete it" in str(caught.value)
        assert other.identity.short() != trainer.identity.short()
    assert state.read_bytes() == kept


def test_how_often_is_looked_at_a_training_makes_it_no_other_one(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    list(trainer_of(state=state, save_every=6).run())
    resumed = trainer_of(state=state, save_every=0, validate_every=1)
    assert not list(resumed.run()) and resumed.step == 12


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"garbage" * 99])
def test_a_damaged_state_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "state.safetensors"
    state.write_bytes(content)
    with pytest.raises(FileError):
        list(trainer_of(state=state).run())
    assert state.read_bytes() == content
