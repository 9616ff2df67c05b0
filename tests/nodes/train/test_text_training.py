"""Training of text encoders on the real host: through the node with the demo's model, and its parts alone."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.sd import load_lora_for_models
from comfy.text_encoders.sd3_clip import SD3ClipModel
from lora_pack.demo.custom_nodes.lora_loom_demo.demo_model import load_demo_model
from lora_pack.lora_core import open_lora
from lora_pack.lora_core.errors import BadTraining
from lora_pack.lora_core.training import Trainer, TrainSettings
from lora_pack.lora_core.training.dataset import TrainingSet, TrainSample
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import (
    HostDenoiser,
    HostTextEncoder,
    PreviewOrder,
    model_names,
    sample,
    text_training,
)
from lora_pack.nodes.comfy_bridge.text_training import check_trainable
from lora_pack.nodes.train import training_run
from lora_pack.nodes.train.train_lora import TrainLora
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[3]
SIDE, STEPS = 64, 4  # pixels; of the optimiser
OTHERS = {"checkpointing": "off", "validate_every": 0, "save_every": 2, "preview_steps": 1}
SETTINGS: dict[str, Any] = {"steps": 3, "batch": 2, "rank": 4, "learning_rate": 0.01, "checkpointing": "off"}
PROMPT = "red circle on white"
LONG = "red circle on white " * 12  # more tokens than the demo's encoder reads at once
State = dict[str, tuple[int, bool, bool, Tensor]]


@pytest.fixture(scope="module")
def data(encoded: Callable[[int, int], TrainingSet]) -> TrainingSet:
    return encoded(2, SIDE)


@pytest.fixture
def inference_clip(demo: tuple[Any, Any, Any]) -> Any:
    """The CLIP with weights as a node of the host loads them: in inference mode."""
    clip = load_demo_model(ROOT / "demo")[1]
    with torch.inference_mode():
        for module in clip.cond_stage_model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
    assert all(parameter.is_inference() for parameter in clip.cond_stage_model.parameters())
    return clip


@pytest.fixture
def train(
    demo: tuple[Any, Any, Any], data: TrainingSet, loras_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(TrainLora, "hidden", SimpleNamespace(unique_id="7"))

    def execute(name: str = "trained", **asked: Any) -> str:
        inputs: dict[str, Any] = {
            "model": demo[0], "clip": demo[1], "dataset": data, "steps": STEPS, "batch": 2, "rank": 4, "seed": 1,
            "learning_rate": 0.02, "targets": "attention", "filename": name, "preview_every": 0,
            "preview_prompts": "", "settings": OTHERS,
        }  # fmt: skip
        with torch.inference_mode():
            return TrainLora.execute(**inputs | asked).args[3]

    return execute


@pytest.fixture(autouse=True)
def model_and_clip_are_left_alone(demo: tuple[Any, Any, Any]) -> Iterator[None]:
    """Every test leaves the same objects with the same bits, and every forward as it was."""
    before = [_state(inner) for inner in (demo[0].model, demo[1].cond_stage_model)]
    yield
    for inner, found in zip((demo[0].model, demo[1].cond_stage_model), before, strict=True):
        _assert_same(inner, found)


def _state(inner: nn.Module) -> State:
    """Of every parameter which object it is, and of it and every buffer what it holds."""
    modes = {name: module.training for name, module in inner.named_modules()}
    objects = {name: id(parameter) for name, parameter in inner.named_parameters()}
    named = [*inner.named_parameters(), *inner.named_buffers()]
    return {n: (objects.get(n, 0), t.requires_grad, modes[n.rpartition(".")[0]], t.detach().clone()) for n, t in named}


def _assert_same(inner: nn.Module, before: State) -> None:
    now = _state(inner)
    assert now.keys() == before.keys()
    for name, (*kind, tensor) in before.items():
        assert now[name][:3] == tuple(kind) and torch.equal(now[name][3], tensor), name
    assert not [name for name, module in inner.named_modules() if "forward" in module.__dict__]


def _trainer(model: Any, clip: Any, samples: Any, **settings: Any) -> Trainer:
    denoiser = HostDenoiser(model, model_names(model, clip), keeps=False)
    chosen = TrainSettings(**SETTINGS | {"validate_every": 0} | settings)
    return Trainer(denoiser, samples, chosen, text=HostTextEncoder(clip, model))


def _moved(trainer: Trainer, spread: float = 0.05) -> Trainer:
    """With factors that do something."""
    rng = torch.Generator().manual_seed(1)
    trainer.parameters.whole.data.add_(torch.randn(trainer.parameters.whole.shape, generator=rng) * spread)
    return trainer


def test_what_was_trained_is_applied_to_model_and_clip_in_our_node_and_in_the_hosts(
    demo: tuple[Any, Any, Any], data: TrainingSet, train: Any, loras_dir: Path
) -> None:
    model, clip, _ = demo
    shape = data.samples[0].latent.shape

    def picture(model: Any, clip: Any) -> Tensor:
        text, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(caption)) for caption in (PROMPT, ""))
        latents = sample(model, text, empty, shape, PreviewOrder(steps=2))
        assert latents is not None
        return latents

    report = train()
    assert "layers of unet, 8 layers of clip_l, " in report  # two blocks of four projections
    file = loras_dir / "trained.safetensors"
    tensors = load_file(file)
    ups = [tensor for key, tensor in tensors.items() if key.startswith("lora_te") and key.endswith("up.weight")]
    assert len(ups) == 8 and all(bool(up.any()) for up in ups)
    assert open_lora(file).header.metadata["ss_text_encoder_lr"] == "0.01"
    ours = ApplyLora.execute(model, file.name, 1.0, 1.0, "error", clip=clip, mode="branch").args[:2]
    hosts = load_lora_for_models(*load_demo_model(ROOT / "demo")[:2], comfy.utils.load_torch_file(str(file)), 1.0, 1.0)
    changed, half = picture(*ours), picture(ours[0], clip)
    assert float((changed - half).abs().max()) > 1e-3
    torch.testing.assert_close(picture(*hosts), changed, rtol=1e-3, atol=1e-3)


def test_a_model_and_a_clip_that_a_lora_acts_beside_are_trained_on(train: Any, loras_dir: Path) -> None:
    train()
    model, clip, _ = load_demo_model(ROOT / "demo")
    with torch.inference_mode():
        with_lora = ApplyLora.execute(model, "trained.safetensors", 1.0, 1.0, "error", clip=clip, mode="branch").args
    assert train(name="second", model=with_lora[0], clip=with_lora[1]).startswith("done: step 4 of 4")
    first, second = (load_file(loras_dir / f"{name}.safetensors") for name in ("trained", "second"))
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[key], second[key]) for key in first if key.endswith("up.weight"))


def test_the_same_seed_gives_the_same_file_and_looking_changes_no_number(train: Any, loras_dir: Path) -> None:
    train()
    file, first = loras_dir / "trained.safetensors", loras_dir / "first.safetensors"
    file.rename(first)
    train()
    assert file.read_bytes() == first.read_bytes()
    assert train().startswith("done before: ")
    file.unlink()
    train(preview_every=2, preview_prompts=PROMPT)
    seen, unseen = load_file(file), load_file(first)
    assert seen.keys() == unseen.keys() and all(torch.equal(seen[key], tensor) for key, tensor in unseen.items())


def test_a_cancelled_run_goes_on_to_the_result_of_an_unbroken_one(
    train: Any, loras_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    unbroken = (loras_dir / "trained.safetensors").read_bytes()
    (loras_dir / "trained.safetensors").unlink()
    with monkeypatch.context() as pressed:
        seen = iter(range(3))
        pressed.setattr(training_run, "is_cancelled", lambda: next(seen, None) in (None, 2))
        assert train().startswith("cancelled: step 2 of 4")
    assert "goes on from step 2" not in train(clip=None, name="model alone")
    assert "goes on from step 2" in train()
    assert (loras_dir / "trained.safetensors").read_bytes() == unbroken


def test_an_error_of_the_host_leaves_model_and_clip_alone(
    train: Any, demo: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostDenoiser, "predict", lambda *_: (_ for _ in ()).throw(RuntimeError("the host broke")))
    with pytest.raises(RuntimeError, match="the host broke"):
        train()


def test_prompts_to_keep_are_held_to_the_untrained_model_and_the_untrained_text_encoder(
    demo: tuple[Any, Any, Any], data: TrainingSet
) -> None:
    model, clip, _ = demo
    kept = TrainSample(
        latent=data.samples[0].latent, conditioning=None, caption=PROMPT, name="kept", size=(SIDE, SIDE), keep=True
    )
    trainer = _trainer(model, clip, [kept, data.samples[0]], batch=1, weighting="none")
    drawn = next(batch for batch in iter(trainer.batches.next, None) if batch.numbers == [0])
    with contextlib.closing(trainer.run()) as run, torch.no_grad():
        next(run)
        before = float(trainer.loss(drawn))
        _moved(trainer)
        after = float(trainer.loss(drawn))
        sigmas = trainer.denoiser.sigmas_at(drawn.positions)
        wide = sigmas.reshape(-1, 1, 1, 1)
        noisy = trainer.latents[0][None] + wide * drawn.noise

        def said() -> Tensor:
            text = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
            return trainer.denoiser.predict(noisy, sigmas, trainer.denoiser.conditions([kept], [text], noisy.shape))

        trained = said()
    with trainer.denoiser.frozen(), torch.no_grad():
        untrained = said()
    assert before == 0.0 and after == pytest.approx(float((trained - untrained).square().mean()), rel=1e-5)
    assert after > 1e-6


@pytest.mark.parametrize("caption", [PROMPT, LONG, "(red:1.4) circle", ""])
def test_an_untrained_adapter_reads_captions_as_the_host_does(demo: tuple[Any, Any, Any], caption: str) -> None:
    model, clip, _ = demo
    text = HostTextEncoder(clip, model)
    ((wanted, options),) = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    with text.frozen(), torch.no_grad():
        ((found, others),) = text.encode([caption])[0]
    assert torch.equal(found, wanted) and others.keys() == options.keys()
    assert torch.equal(others["pooled_output"], options["pooled_output"])


def test_the_layer_that_another_node_chose_is_read(demo: tuple[Any, Any, Any]) -> None:
    model, clip = demo[0], demo[1].clone()
    clip.clip_layer(-2)
    text = HostTextEncoder(clip, model)
    wanted = clip.encode_from_tokens(clip.tokenize(PROMPT))
    with text.frozen(), torch.no_grad():
        found = text.encode([PROMPT])[0][0][0]
    assert torch.equal(found, wanted)
    assert not torch.equal(found, demo[1].encode_from_tokens(clip.tokenize(PROMPT)))


def test_gradients_of_captions_are_those_of_differences(demo: tuple[Any, Any, Any], data: TrainingSet) -> None:
    """Of long and weighted captions, whose chunks and weights the host puts together in place."""
    model, clip, _ = demo
    first = data.samples[0]
    samples = [replace(first, caption=LONG), replace(first, caption="a (red:1.4) circle")]
    trainer = _moved(_trainer(model, clip, samples))
    drawn = trainer.batches.next()
    with contextlib.closing(trainer.run()) as run:
        next(run)
        trainer.loss(drawn).backward()
        gradient = trainer.parameters.gradient.clone()
        of_text = trainer.parameters.groups[1]
        rng = torch.Generator().manual_seed(3)
        way = torch.randn(of_text.shape, generator=rng)
        losses: list[float] = []
        for width in (1e-3, -1e-3):
            of_text.data.add_(way * width)
            with torch.no_grad():
                losses.append(float(trainer.loss(drawn).double()))
            of_text.data.sub_(way * width)
    slope = float((gradient[-len(way) :] * way).sum())
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=0.02) and abs(slope) > 1e-4


def test_computing_layers_again_gives_the_same_gradients(
    demo: tuple[Any, Any, Any], data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient() -> Tensor:
        trainer = _moved(_trainer(demo[0], demo[1], data.samples))
        with contextlib.closing(trainer.run()) as run:
            next(run)
            trainer.loss(trainer.batches.next()).backward()
        return trainer.parameters.gradient[-len(trainer.parameters.groups[1]) :]

    twice = gradient()
    monkeypatch.setattr(text_training, "Recomputed", lambda forward: forward)
    torch.testing.assert_close(gradient(), twice, rtol=1e-5, atol=1e-7)
    assert bool(twice.any())


def test_weights_of_inference_mode_train_as_others_do_and_are_put_back(
    demo: tuple[Any, Any, Any], data: TrainingSet, inference_clip: Any
) -> None:
    plain = _trainer(demo[0], demo[1], data.samples, checkpointing="on")
    list(plain.run())
    with torch.inference_mode():
        before = _state(inference_clip.cond_stage_model)
        inside = _trainer(demo[0], inference_clip, data.samples, checkpointing="on")
        list(inside.run())
        _assert_same(inference_clip.cond_stage_model, before)
        with pytest.raises(InterruptedError):
            with contextlib.closing(_trainer(demo[0], inference_clip, data.samples).run()) as run:
                for _ in run:
                    raise InterruptedError
        _assert_same(inference_clip.cond_stage_model, before)
    assert inside.losses == plain.losses
    assert torch.equal(inside.state().factors, plain.state().factors)


def test_models_that_the_host_moves_for_a_preview_train_on_and_are_whole_after(
    train: Any, inference_clip: Any, loras_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device without room for all: what is moved in inference mode is of a kind that autograd refuses."""
    model = load_demo_model(ROOT / "demo")[0]
    inners = [model.model, inference_clip.cond_stage_model]
    before = [_state(inner) for inner in inners]
    moved: list[bool] = []

    def move(*_: Any) -> None:
        for inner in inners:
            inner._apply(lambda tensor: tensor.clone())
        moved.append(all(parameter.is_inference() for parameter in inners[1].parameters()))

    train(name="still")
    with monkeypatch.context() as moving:
        moving.setattr(training_run.TrainingRun, "_preview", move)
        train(name="moved", model=model, clip=inference_clip, preview_every=1)
    assert moved == [True] * (STEPS + 1)
    for inner, found in zip(inners, before, strict=True):
        _assert_same(inner, found)
    still, other = (load_file(loras_dir / f"{name}.safetensors") for name in ("still", "moved"))
    assert all(torch.equal(still[key], other[key]) for key in still)


def test_the_rate_of_the_text_encoder_is_its_own(demo: tuple[Any, Any, Any], data: TrainingSet) -> None:
    still = _trainer(demo[0], demo[1], data.samples, text_encoder_lr=0.0)
    at_start = [part.detach().clone() for part in still.parameters.groups]
    list(still.run())
    (unet, text), (first_unet, first_text) = still.parameters.groups, at_start
    assert torch.equal(text, first_text) and not torch.equal(unet, first_unet)


@pytest.mark.parametrize(("targets", "layers"), [("attention", 8), ("attention + ff", 12), ("all", 12)])
def test_targets_choose_among_the_layers_of_the_text_encoder(
    demo: tuple[Any, Any, Any], data: TrainingSet, targets: str, layers: int
) -> None:
    trainer = _trainer(demo[0], demo[1], data.samples, targets=targets)
    assert f", {layers} layers of clip_l, " in trainer.trained_layers()


def test_a_clip_of_another_kind_than_that_of_the_dataset_is_told(train: Any, data: TrainingSet) -> None:
    wide = [[torch.zeros(1, 7, 768), {"pooled_output": torch.zeros(1, 1280)}]]
    other = replace(data, encode_text=lambda caption: wide)
    words = (
        r"clip gives \(64, 64\) numbers .* of the dataset have \(768, 1280\); connect the CLIP that made the dataset"
    )
    with pytest.raises(BadTraining, match=words):
        train(dataset=other)


def test_text_encoders_of_another_kind_are_left_alone_and_told_and_the_model_is_trained(train: Any) -> None:
    clip = SimpleNamespace(cond_stage_model=nn.Linear(2, 2))
    report = train(clip=clip)
    assert report.startswith("done: step ") and "layers of clip" not in report
    assert "of these, CLIP alone is trained, not Linear" in report


def test_text_encoders_that_cant_be_trained_are_named() -> None:
    model = SD3ClipModel(clip_l=True, clip_g=False, t5=True, dtype_t5=torch.float32, device=torch.device("meta"))
    words = r"of text encoders, CLIP alone can be trained, not t5xxl \(T5\); disconnect clip"
    with pytest.raises(BadTraining, match=words) as caught:
        check_trainable(SimpleNamespace(cond_stage_model=model, use_clip_schedule=False))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and "clip_l" not in str(caught.value)
    with pytest.raises(BadTraining, match="not Linear"):
        check_trainable(SimpleNamespace(cond_stage_model=nn.Linear(1, 1)))  # type: ignore[arg-type]
