"""The node Train LoRA on the real host, with the demo's model and pictures drawn for it, as its executor runs it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.utils
import pytest
import torch
from comfy.sd import load_lora_for_models
from lora_pack.demo.custom_nodes.lora_loom_demo.demo_model import load_demo_model
from lora_pack.lora_core import open_lora
from lora_pack.lora_core.errors import BadSetting, BadTraining, FileNotWritten, LoraError, TrainingFailed
from lora_pack.lora_core.files.adapter_content import AdapterContent
from lora_pack.lora_core.files.metadata import read_about
from lora_pack.lora_core.training import Trainer
from lora_pack.lora_core.training.dataset import TrainingSet
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import HostDenoiser, PreviewOrder, sample
from lora_pack.nodes.page.training_progress import BOARD
from lora_pack.nodes.train import training_run
from lora_pack.nodes.train.train_lora import TrainLora
from lora_pack.nodes.train.training_files import CHECKPOINTS_KEPT, STATE_FOLDER
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[3]
SIDE, STEPS = 64, 6  # pixels; of the optimiser
NODE = "7"  # id of the node in its graph
OTHERS = {"checkpointing": "off", "validate_every": 0, "save_every": 2, "preview_steps": 1}


@pytest.fixture(scope="module")
def data(encoded: Callable[[int, int], TrainingSet]) -> TrainingSet:
    return encoded(3, SIDE)


@pytest.fixture
def folders(loras_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The loras folder, and the one where states of trainings are kept."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return loras_dir, tmp_path / "output" / STATE_FOLDER


@pytest.fixture(autouse=True)
def model_is_left_alone(demo: tuple[Any, Any, Any]) -> Iterator[None]:
    """Every test leaves the same objects with the same bits, and every forward as it was."""
    inner = demo[0].model
    before = {name: (id(tensor), tensor.clone()) for name, tensor in inner.named_parameters()}
    yield
    for name, tensor in inner.named_parameters():
        assert id(tensor) == before[name][0] and torch.equal(tensor, before[name][1]), name
    assert not [name for name, module in inner.named_modules() if "forward" in module.__dict__]


@pytest.fixture
def train(
    demo: tuple[Any, Any, Any], data: TrainingSet, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, Tensor, Tensor, str]]:
    monkeypatch.setattr(TrainLora, "hidden", SimpleNamespace(unique_id=NODE))

    def execute(name: str = "trained", **asked: Any) -> tuple[Any, Tensor, Tensor, str]:
        inputs: dict[str, Any] = {
            "model": demo[0], "dataset": data, "steps": STEPS, "batch": 2, "rank": 4, "learning_rate": 0.01,
            "targets": "attention", "seed": 1, "filename": name, "preview_every": 0, "preview_prompts": "",
            "settings": OTHERS,
        }  # fmt: skip
        with torch.inference_mode():
            return TrainLora.execute(**inputs | asked).args

    return execute


@pytest.fixture
def picture(demo: tuple[Any, Any, Any], data: TrainingSet) -> Callable[[Any], Tensor]:
    """What a model makes of a prompt in two steps."""

    def make(model: Any) -> Tensor:
        text, empty = data.encode_text("red circle on white"), data.encode_text("")
        latents = sample(model, text, empty, data.samples[0].latent.shape, PreviewOrder(steps=2))
        assert latents is not None
        return latents

    return make


def _after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A person presses cancel after so many steps."""
    seen = iter(range(steps + 1))
    monkeypatch.setattr(training_run, "is_cancelled", lambda: next(seen, None) in (None, steps))


def test_what_was_trained_is_applied_at_once_and_by_file_in_our_node_and_in_the_hosts(
    demo: tuple[Any, Any, Any], train: Any, folders: tuple[Path, Path], picture: Any
) -> None:
    model, plain = demo[0], picture(demo[0])
    lora, chart, _, report = train(preview_every=3)
    assert report.startswith("done: step 6 of 6, rank 4") and "Written as trained.safetensors." in report
    assert chart.shape[-1] == 3
    at_once = ApplyLora.execute(
        model=model, lora_name="none", strength_model=1.0, strength_clip=1.0, on_unmatched="error", lora=lora
    ).args[0]  # fmt: skip
    by_name = ApplyLora.execute(model, "trained.safetensors", 1.0, 1.0, "error").args[0]
    tensors = comfy.utils.load_torch_file(str(folders[0] / "trained.safetensors"))
    hosts, _ = load_lora_for_models(load_demo_model(ROOT / "demo")[0], None, tensors, 1.0, 0.0)
    changed = picture(at_once)
    assert float((changed - plain).abs().max()) > 1e-2
    torch.testing.assert_close(picture(by_name), changed, rtol=0, atol=1e-5)
    torch.testing.assert_close(picture(hosts), changed, rtol=1e-3, atol=1e-3)
    assert torch.equal(picture(model), plain)
    assert not list(folders[1].iterdir())  # no state is left of what is done


def test_the_file_says_what_it_is(train: Any, folders: tuple[Path, Path]) -> None:
    train()
    metadata = open_lora(folders[0] / "trained.safetensors").header.metadata
    about = read_about(metadata)
    assert about.output_name == "trained" and about.network_module == "networks.lora"
    assert "ohwx" in [word.text for word in about.trigger_words] and not about.unreadable
    assert metadata["ss_steps"] == "6" and metadata["ss_network_dim"] == "4"


def test_the_same_seed_gives_the_same_file_to_the_byte(train: Any, folders: tuple[Path, Path]) -> None:
    train()
    first = (folders[0] / "trained.safetensors").rename(folders[0] / "first.safetensors").read_bytes()
    train()
    assert (folders[0] / "trained.safetensors").read_bytes() == first
    train(seed=2)
    assert (folders[0] / "trained_2.safetensors").read_bytes() != first


def test_looking_changes_nothing_but_the_picture_in_the_file(train: Any, folders: tuple[Path, Path]) -> None:
    train()
    (folders[0] / "trained.safetensors").rename(folders[0] / "first.safetensors")
    train(preview_every=2)
    unseen, seen = (load_file(folders[0] / name) for name in ("first.safetensors", "trained.safetensors"))
    assert unseen.keys() == seen.keys()
    assert all(torch.equal(seen[key], tensor) for key, tensor in unseen.items())
    with safe_open(folders[0] / "trained.safetensors", "pt") as file:
        assert file.metadata()["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")


def test_keeping_the_captions_is_keeping_each_without_its_trigger(
    train: Any, data: TrainingSet, folders: tuple[Path, Path]
) -> None:
    called = [replace(sample, caption=f"sks, {sample.caption}") for sample in data.samples]
    asked = {"dataset": replace(data, samples=called, trigger="sks")}
    written = "\n".join(dict.fromkeys(sample.caption for sample in data.samples))
    for name, prompts in (("named", "<captions>"), ("written", written), ("none", "")):
        train(name, keep_prompts=prompts, **asked)
    named, spelt, none = (load_file(folders[0] / f"{name}.safetensors") for name in ("named", "written", "none"))
    assert all(torch.equal(named[key], tensor) for key, tensor in spelt.items())
    assert any(not torch.equal(named[key], tensor) for key, tensor in none.items())


def test_a_cancelled_run_is_kept_and_goes_on_to_the_result_of_an_unbroken_one(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    unbroken = (folders[0] / "trained.safetensors").read_bytes()
    (folders[0] / "trained.safetensors").unlink()
    assert TrainLora.fingerprint_inputs(filename="trained") is None
    with monkeypatch.context() as pressed:
        _after(pressed, 3)
        *_, report = train()
    assert report.startswith("cancelled: step 3 of 6") and "Queue again to go on from here." in report
    assert [path.name for path in folders[0].iterdir()] == ["trained_step3.safetensors"]
    (kept,) = folders[1].iterdir()
    assert TrainLora.fingerprint_inputs(filename="trained") == kept.stat().st_mtime_ns  # so that the host runs it again
    train(seed=2)  # another training of this name neither takes nor harms it
    assert list(folders[1].iterdir()) == [kept]
    *_, report = train()
    assert "goes on from step 3" in report and not list(folders[1].iterdir())
    assert (folders[0] / "trained_2.safetensors").read_bytes() == unbroken
    *_, report = train()  # the host runs it once more, since no state is kept now
    assert report.startswith("done before: trained_2.safetensors")


def test_a_training_that_is_done_is_handed_out_at_once(
    train: Any, demo: tuple[Any, Any, Any], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, chart, *_ = train(preview_every=3)
    with monkeypatch.context() as without:
        without.setattr(Trainer, "run", lambda _: pytest.fail("it trained"))
        again, same_chart, _, report = train(model=load_demo_model(ROOT / "demo")[0])  # as after a start of the host
    assert report.startswith("done before: trained.safetensors is the result of this very training")
    assert "choose another seed" in report and BOARD.all()[-1]["state"] == "done"
    assert torch.equal(chart, same_chart)
    with first.tensors() as ours, again.tensors() as theirs:
        assert first.header.entries.keys() == again.header.entries.keys()
        assert all(torch.equal(ours.tensor(key), theirs.tensor(key)) for key in first.header.entries)
    assert [path.name for path in folders[0].iterdir()] == ["trained.safetensors"]


def test_whatever_differs_from_a_training_that_is_done_is_trained(
    train: Any, demo: tuple[Any, Any, Any], data: TrainingSet, folders: tuple[Path, Path]
) -> None:
    train()
    tuned = load_demo_model(ROOT / "demo")[0]
    with torch.no_grad():
        for parameter in tuned.model.diffusion_model.parameters():
            parameter.mul_(1.001)
    plain = load_demo_model(ROOT / "demo")[0]
    applied = ApplyLora.execute(plain, "trained.safetensors", 0.5, 0.5, "error", mode="branch").args[0]
    first, *others = data.samples
    brighter = [replace(first, latent=first.latent + 0.1), *others]
    reworded = [replace(first, conditioning=data.encode_text("a blue square")), *others]
    asked: list[dict[str, Any]] = [
        {"steps": STEPS + 1}, {"model": tuned}, {"model": applied}, {"clip": demo[1]},
        {"dataset": replace(data, samples=brighter)}, {"dataset": replace(data, samples=reworded)},
    ]  # fmt: skip
    for other in asked:
        assert train(**other)[3].startswith("done: "), other
    path = folders[0] / "trained.safetensors"
    for stale in folders[0].glob("trained_*"):
        stale.unlink()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert train()[3].startswith("done: ")  # the file was changed
    (folders[0] / "trained_3.safetensors").write_bytes(b"no file of ours")
    assert train()[3].startswith("done before: trained_2.safetensors")


def test_a_training_that_was_stopped_is_not_taken_for_a_whole_one(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as pressed:
        pressed.setattr(training_run, "is_cancelled", lambda: BOARD.ask_to_stop(NODE) and False)
        assert train()[3].startswith("stopped: ")
    assert train()[3].startswith("done: ")


def test_of_the_states_of_cancelled_trainings_the_newest_are_kept(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders[1].mkdir(parents=True)
    states = [folders[1] / f"old{number}.{number:012x}.checkpoint.safetensors" for number in range(10)]
    foreign = [folders[1] / name for name in ("mine.checkpoint.safetensors", "notes.txt", "a.0123.safetensors")]
    for age, path in enumerate([*states, *foreign]):
        path.write_bytes(b"")
        os.utime(path, ns=(age, age))
    _after(monkeypatch, 2)
    *_, report = train()
    left = {path.name for path in folders[1].iterdir()}
    assert {path.name for path in (*states[3:], *foreign)} < left and len(left) == CHECKPOINTS_KEPT + len(foreign)
    assert all(path.name in report for path in states[:3]) and "deleted the oldest states" in report


def test_stopping_keeps_the_result_and_no_state(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press() -> bool:
        if BOARD.all()[-1]["step"] == 4:
            assert BOARD.ask_to_stop(NODE)
        return False

    monkeypatch.setattr(training_run, "is_cancelled", press)
    *_, report = train()
    assert report.startswith("stopped: step 4 of 6")
    assert open_lora(folders[0] / "trained.safetensors").header.metadata["ss_steps"] == "4"
    assert not list(folders[1].iterdir())


def test_a_loss_that_is_no_number_ends_in_one_line_that_names_the_kept_file(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = Trainer.loss, iter(range(STEPS))
    monkeypatch.setattr(Trainer, "loss", lambda self, batch: loss(self, batch) * (1, 1, 1, float("nan"))[next(calls)])
    with pytest.raises(TrainingFailed) as caught:
        train()
    words = str(caught.value)
    assert words.startswith("The training stopped after step 3: the loss is nan at step 4.")
    assert words.endswith("Kept as trained_step3.safetensors.") and "\n" not in words
    kept = comfy.utils.load_torch_file(str(folders[0] / "trained_step3.safetensors"))
    assert kept and all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_an_error_of_the_host_leaves_the_model_alone(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostDenoiser, "predict", lambda *_: (_ for _ in ()).throw(RuntimeError("the host broke")))
    with pytest.raises(RuntimeError, match="the host broke"):
        train()
    assert BOARD.all()[-1]["state"] == "failed"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rank": 0}, "rank should be 1 to 4096, but is 0"),
        ({"settings": {"optimiser": "magic"}}, "optimiser should be one of adamw, but is 'magic'"),
        ({"settings": {"nonsense": 1, "odd": 2}}, "there is no setting 'nonsense'; there is no setting 'odd'"),
        ({"rank": 0, "steps": 0}, "steps should be .*; rank should be"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    train: Any, folders: tuple[Path, Path], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadTraining, match=words) as caught:
        train(**asked)
    assert "\n" not in str(caught.value) and not list(folders[0].iterdir())


def test_captions_without_a_trigger_can_not_be_kept_without_it(train: Any, data: TrainingSet) -> None:
    with pytest.raises(BadSetting, match="no trigger"):
        train(keep_prompts="<captions>", dataset=replace(data, trigger=""))


def test_a_set_without_pictures_is_told(train: Any, data: TrainingSet) -> None:
    empty = TrainingSet(samples=[], encode_text=data.encode_text, decode=data.decode)
    with pytest.raises(LoraError, match="there are no pictures to learn from"):
        train(dataset=empty)


def _no_room(*_: Any, **__: Any) -> None:
    raise FileNotWritten("trained.safetensors", "it could not be written (No space left on device)")


def test_a_last_write_that_fails_hands_the_lora_on_and_keeps_the_state_for_the_next_run(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    train("whole")
    with monkeypatch.context() as full:
        full.setattr(AdapterContent, "write", _no_room)
        lora, _, _, report = train()
    assert "No space left" in report and "the state stays" in report and "Written as" not in report
    assert len(list(folders[1].iterdir())) == 1 and not (folders[0] / "trained.safetensors").exists()
    assert lora.content.tensors.keys() == load_file(folders[0] / "whole.safetensors").keys()
    seen = [0]
    monkeypatch.setattr(Trainer, "loss", lambda *_: seen.append(1))  # nothing is trained any more
    train()
    assert (folders[0] / "trained.safetensors").exists() and not list(folders[1].iterdir())
    written, whole = load_file(folders[0] / "trained.safetensors"), load_file(folders[0] / "whole.safetensors")
    assert all(torch.equal(written[key], whole[key]) for key in whole) and seen == [0]


def test_a_disk_that_is_full_for_the_state_too_still_hands_the_lora_on(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdapterContent, "write", _no_room)
    monkeypatch.setattr(Trainer, "save", _no_room)
    lora, _, _, report = train(settings={**OTHERS, "save_every": 0})
    assert lora.content.tensors and report.count("No space left") == 2


@pytest.mark.parametrize(
    "name",
    [
        "a/b/../../../c", "sub/x", "n" * 250, "ü" * 120, "CON", "aux/x", "nul.safetensors", "name.", "name ", " name",
        "two\nlines", "a\tb", "a:b", "-rf", "a//b", "right\u202eleft",
    ],
)  # fmt: skip
def test_a_target_that_can_not_be_written_is_refused_before_the_first_step(
    train: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (folders[0] / "sub").write_bytes(b"a file")
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("a step was taken"))
    with pytest.raises(LoraError) as refused:
        train(name)
    assert "\n" not in str(refused.value)
    assert [path.name for path in folders[0].iterdir()] == ["sub"]


def test_latents_of_another_familys_vae_are_named_before_step_1(train: Callable[..., Any], data: TrainingSet) -> None:
    wide = [replace(sample, latent=torch.zeros(16, 8, 8)) for sample in data.samples]
    words = (
        "takes latents of 12 channels along 2 axes, the pictures have latents of 16 channels along 2; connect the VAE"
    )
    with pytest.raises(BadTraining, match=words):
        train(dataset=replace(data, samples=wide))
