"""Training on the host's own model, as its executor runs nodes: nothing left behind, and the file is the training's."""

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.utils
import pytest
import torch
from comfy.sd import load_lora_for_models
from lora_pack.lora_core.errors import BadTraining
from lora_pack.lora_core.files.safetensors_writer import write_safetensors
from lora_pack.lora_core.training import Trainer, TrainSettings
from lora_pack.lora_core.training.dataset import TrainSample
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names
from torch import Tensor

from ..conftest import patcher_of

SETTINGS: dict[str, Any] = {
    "steps": 4, "batch": 2, "rank": 4, "learning_rate": 1e-2, "warmup": 0.0, "checkpointing": "off",
    "validate_every": 0,
}  # fmt: skip
CPU = torch.device("cpu")
State = dict[str, tuple[int, bool, Tensor]]
Forwards = dict[str, tuple[object, int]]


def _samples(*sizes: tuple[int, int]) -> list[TrainSample]:
    """One picture for each (width of the latent, length of the text)."""
    rng = torch.Generator().manual_seed(3)
    return [
        TrainSample(
            latent=torch.randn(4, 8, width, generator=rng),
            conditioning=[[torch.randn(1, tokens, 768, generator=rng), {"pooled_output": None}]],
            caption="a thing",
            name=f"{width} {tokens}",
            size=(64, width * 8),
        )
        for width, tokens in sizes or ((8, 7), (8, 14), (16, 7))
    ]


def _denoiser(model: Any) -> HostDenoiser:
    return HostDenoiser(model, model_names(model, None))


def _trainer(model: Any, **settings: Any) -> Trainer:
    return Trainer(_denoiser(model), _samples(), TrainSettings(**{**SETTINGS, **settings}))


def _factors(trainer: Trainer) -> Tensor:
    return trainer.state().factors


@pytest.fixture
def inference_model(model: Any) -> Any:
    """The model with weights as a node of the host loads them: in inference mode."""
    with torch.inference_mode():
        made = _copied(model)
        assert next(made.model.diffusion_model.parameters()).is_inference()
        return made


def _copied(model: Any) -> Any:
    """The model in memory of its own; where weights lie decides how the CPU rounds."""
    config = model.model.model_config  # shared: newer hosts' configs can't be copied
    inner = copy.deepcopy(model.model, {id(config): config})
    for name, parameter in list(inner.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        inner.get_submodule(parent)._parameters[leaf] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
    return patcher_of(inner)


def _state(model: Any) -> State:
    named = [*model.model.named_parameters(), *model.model.named_buffers()]
    return {name: (id(tensor), tensor.requires_grad, tensor.clone()) for name, tensor in named}


def _forwards(model: Any) -> Forwards:
    """Of every module: a forward of its own, such as other nodes may have put there, and its hooks."""
    return {name: (m.__dict__.get("forward"), len(m._forward_hooks)) for name, m in model.model.named_modules()}


def _assert_same(model: Any, before: State, forwards: Forwards) -> None:
    now = _state(model)
    assert now.keys() == before.keys()
    for name, (identity, trained, tensor) in before.items():
        assert now[name][:2] == (identity, trained) and torch.equal(now[name][2], tensor), name
    assert _forwards(model) == forwards


@pytest.mark.parametrize("kind", ["model", "inference_model"])
def test_the_model_is_the_very_same_after_a_run(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])  # takes out what another model of these weights had put in
        before, forwards = _state(model), _forwards(model)
        *_, last = _trainer(model, checkpointing="on", algorithm="locon").run()
        _assert_same(model, before, forwards)
    assert last.step == 4


def test_the_model_is_the_very_same_after_a_cut_and_an_error(
    inference_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([inference_model])
        before, forwards = _state(inference_model), _forwards(inference_model)
        with pytest.raises(InterruptedError):
            with contextlib.closing(_trainer(inference_model).run()) as run:
                for _ in run:
                    raise InterruptedError
        _assert_same(inference_model, before, forwards)
        trainer = _trainer(inference_model)
        monkeypatch.setattr(inference_model.model, "extra_conds", lambda **_: (_ for _ in ()).throw(KeyError("broken")))
        with pytest.raises(KeyError, match="broken"):
            list(trainer.run())
        _assert_same(inference_model, before, forwards)


def test_weights_of_inference_mode_train_as_others_do(model: Any, inference_model: Any) -> None:
    plain = _trainer(_copied(model))
    list(plain.run())
    with torch.inference_mode():
        inside = _trainer(inference_model)
        list(inside.run())
    assert inside.losses == plain.losses and torch.equal(_factors(plain), _factors(inside))


@pytest.mark.parametrize("algorithm", ["lora", "locon"])
def test_the_file_does_what_the_live_branch_did(model: Any, run: Any, loras_dir: Path, algorithm: str) -> None:
    before = run(model)
    trainer = _trainer(model, algorithm=algorithm)
    live = before
    for report in trainer.run():
        if report.step == SETTINGS["steps"]:
            live = run(model)
    lora = trainer.adapter("trained")
    write_safetensors(loras_dir / "trained.safetensors", lora.content.tensors, lora.header.metadata)
    tensors = comfy.utils.load_torch_file(str(loras_dir / "trained.safetensors"))
    hosts, _ = load_lora_for_models(model, None, tensors, 1.0, 1.0)
    ours = ApplyLora.execute(model, "trained.safetensors", 1.0, 1.0, "error").args[0]
    assert float((live - before).abs().max()) > 1e-2
    torch.testing.assert_close(run(hosts), live, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(run(ours), live, rtol=1e-4, atol=2e-4)
    assert torch.equal(run(model), before)


def test_sampling_while_training_sees_the_branch_and_changes_no_number(model: Any) -> None:
    plain, looked_at = _trainer(model), _trainer(model)
    list(plain.run())
    text = _samples()[0].conditioning
    noise, latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.zeros(1, 4, 8, 8)
    seen = [
        comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", text, text, latent, seed=1)
        for _ in looked_at.run()
    ]
    assert torch.equal(_factors(plain), _factors(looked_at))
    assert not torch.equal(seen[0], seen[-1])


def test_recomputing_activations_gives_the_same_gradients(model: Any) -> None:
    trainer = _trainer(model)
    gradients: list[Tensor] = []
    trainer.parameters.whole.data.add_(torch.randn(trainer.parameters.whole.shape) * 0.05)
    with contextlib.closing(trainer.run()) as run:
        next(run)
        drawn = trainer.batches.next()
        for context in (contextlib.nullcontext(), trainer.denoiser.recomputing()):
            with context:
                trainer.loss(drawn).backward()
            gradients.append(trainer.parameters.gradient.clone())
            trainer.parameters.gradient.zero_()
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert bool(gradients[0].any())


def _groups(denoiser: HostDenoiser, samples: Sequence[TrainSample]) -> list[list[int]]:
    texts = [sample.conditioning for sample in samples]
    return [list(n) for n, _ in denoiser.conditions(samples, texts, torch.Size((len(samples), 4, 8, 8))).groups]


def test_captions_of_any_lengths_are_each_their_own(model: Any) -> None:
    denoiser = _denoiser(model)
    samples = _samples(*((8, tokens) for tokens in (7, 11, 14, 13)))
    rng = torch.Generator().manual_seed(4)
    noisy, sigmas = torch.randn(4, 4, 8, 8, generator=rng), torch.tensor([0.5, 1.0, 3.0, 9.0])

    def outputs(chosen: list[int]) -> Tensor:
        own = [samples[number] for number in chosen]
        conditions = denoiser.conditions(own, [s.conditioning for s in own], noisy[chosen].shape)
        return denoiser.predict(noisy[chosen], sigmas[chosen], conditions)

    with denoiser.frozen(), torch.no_grad():
        together, alone = outputs([0, 1, 2, 3]), torch.cat([outputs([number]) for number in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ((7, 7, 14), [[0, 1, 2]]),
        ((7, 11, 13), [[0], [1], [2]]),
        ((77, 154, 231, 308), [[0, 1, 3], [2]]),  # together they would be 924 tokens long
    ],
)
def test_captions_are_joined_while_that_repeats_them_little(model: Any, lengths: Any, groups: list[list[int]]) -> None:
    assert _groups(_denoiser(model), _samples(*((8, length) for length in lengths))) == groups


def test_the_host_is_asked_once_for_a_caption_while_it_trains(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    original = model.model.extra_conds
    monkeypatch.setattr(model.model, "extra_conds", lambda **given: asked.append(given["width"]) or original(**given))
    trainer = _trainer(model, steps=8)
    list(trainer.run())
    assert len(asked) == 3
    list(_trainer(model, steps=1).run())
    assert len(asked) > 3  # nothing is kept after the run


def test_what_another_node_put_in_place_of_the_sampling_counts(model: Any) -> None:
    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    class Unknown(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.IMG_TO_IMG):
        pass

    changed = model.clone()
    changed.add_object_patch("model_sampling", Sampling(model.model.model_config))
    assert [_denoiser(one).noising.objective.name for one in (changed, model)] == ["v", "eps"]
    changed.add_object_patch("model_sampling", Unknown(model.model.model_config))
    with pytest.raises(BadTraining, match="in pairs"):
        _denoiser(changed)


def test_every_discrete_noise_level_is_the_hosts_own(model: Any) -> None:
    sigmas = _denoiser(model).sigmas_at(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(sigmas, model.model.model_sampling.sigmas[[0, 500, 999]])
