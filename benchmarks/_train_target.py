"""How many steps, and seconds, each side of benchmarks.train takes to a given validation error on the demo's model.

Ten pictures of a shape that the model does not know, batch 1. Ours at its defaults, and on every layer as the host's
node trains; the node with rank 8 at its default rate of 5e-4 and at 2e-3; PEFT as diffusers' script for text-to-image,
rank 4 and rate 1e-4 on attention. The error is that of lora_core.training.validation: a fixed grid of pictures, noise
levels and noises, as a share of what it is without an adapter. The target is what the host's node has reached after its
last step at its default rate.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._host import ROOT
from ._measure import Row
from ._train_sides import Plan, host_lora, in_own_process, peft_layers

HOST_RANK, HOST_RATE = 8, 5e-4
EVERY_LAYER: Mapping[str, Any] = {"targets": "all", "algorithm": "locon"}
OURS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours, every layer": EVERY_LAYER,
    "ours, every layer, rate 2e-3": {**EVERY_LAYER, "learning_rate": 2e-3},
}
HOSTS = {"ComfyUI's node": HOST_RATE, "ComfyUI's node, rate 2e-3": 2e-3}
PEFT = "PEFT"
PEFT_RANK, PEFT_RATE = 4, 1e-4
LENGTHS = (25, 50, 100, 200)  # steps
BATCH = 1
PICTURES = 10
SIDE = 128  # pixels


@dataclass(frozen=True)
class Reached:
    """A side after some steps."""

    steps: int
    seconds: float
    error: float  # as a share of the error without an adapter


def target_rows() -> list[Row]:
    """Print the table in Markdown; the rows of each of ours against each other side."""
    model, data = _model_and_data()
    runs: dict[str, Callable[[], list[Reached]]] = {
        **{name: lambda given=given: _our_runs(model, data, given) for name, given in OURS.items()},
        PEFT: lambda: _peft_run(model, data),
        **{name: lambda rate=rate: _host_runs(model, data, rate) for name, rate in HOSTS.items()},
    }
    steps = " | ".join(f"{steps} steps" for steps in LENGTHS)
    print(f"| Validation error after | {steps} |\n|---|" + "---:|" * len(LENGTHS))
    found: dict[str, list[Reached]] = {}
    for name, run in runs.items():
        found[name] = run()
        cells = [f"{one.error:.1%} in {one.seconds:.1f} s" for one in found[name]]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    target = found[next(iter(HOSTS))][-1].error
    return [row for ours in OURS for name in (PEFT, *HOSTS) for row in _against(ours, name, target, found)]


def _against(own: str, name: str, target: float, found: Mapping[str, Sequence[Reached]]) -> list[Row]:
    ours, theirs = (next((one for one in found[side] if one.error <= target), None) for side in (own, name))
    case = f"demo model, {own}, to {target:.1%} of the error at the start"
    if ours is None:
        return [Row(f"{case}: not reached, steps", float("inf"), theirs and theirs.steps, name, None, "steps")]
    fewer, faster = (theirs.steps / ours.steps, theirs.seconds / ours.seconds) if theirs else (None, None)
    return [
        Row(f"{case}, steps", ours.steps, theirs and theirs.steps, name, fewer, "steps"),
        Row(f"{case}, time", ours.seconds, theirs and theirs.seconds, name, faster, "s"),
    ]


def _model_and_data() -> tuple[Any, Sequence[Any]]:
    sys.path[:0] = [str(ROOT / "demo" / "custom_nodes"), str(ROOT / "demo")]
    from lora_loom_demo.demo_model import load_demo_model
    from lora_pack.lora_core.training.dataset import TrainSample
    from lora_pack.nodes.comfy_bridge import encoders_of
    from pictures import NEW_SHAPE, draw, random_pictures

    model, clip, vae = load_demo_model(ROOT / "demo")
    encoders = encoders_of(vae, clip)
    drawn = random_pictures(PICTURES, torch.Generator().manual_seed(1), (NEW_SHAPE,))
    pixels = draw(drawn, SIDE).movedim(1, -1)
    return model, [
        TrainSample(
            latent=encoders.encode_picture(pixels[number : number + 1])[0],
            conditioning=encoders.encode_text(picture.caption),
            caption=picture.caption,
            name=str(number),
            size=(SIDE, SIDE),
        )
        for number, picture in enumerate(drawn)
    ]


def _errors(patcher: Any, data: Sequence[Any], names: Any) -> list[float]:
    """Of every cell of the grid."""
    from lora_pack.lora_core.training.validation import cell_errors, grid
    from lora_pack.nodes.comfy_bridge import HostDenoiser

    denoiser = HostDenoiser(patcher, names)

    def conditions_of(samples: Sequence[Any], shape: torch.Size) -> Any:
        return denoiser.conditions(samples, [sample.conditioning for sample in samples], shape)

    found: list[float] = []
    with denoiser.frozen():
        for cells in grid(data, BATCH):
            latents = torch.cat([denoiser.scaled(cell.sample.latent[None]) for cell in cells])
            found += cell_errors(cells, latents, denoiser, conditions_of)
    return found


def _relative(patcher: Any, data: Sequence[Any], names: Any, start: Sequence[float]) -> float:
    from lora_pack.lora_core.training.validation import Validation

    return Validation(_errors(patcher, data, names), start).relative


def _our_runs(model: Any, data: Sequence[Any], given: Mapping[str, Any]) -> list[Reached]:
    return [in_own_process(lambda steps=steps: _our_run(model, data, steps, given))[0] for steps in LENGTHS]


def _our_run(model: Any, data: Sequence[Any], steps: int, given: Mapping[str, Any]) -> Reached:
    from lora_pack.lora_core.training import Trainer, TrainSettings
    from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names

    settings = TrainSettings(steps=steps, batch=BATCH, validate_every=0, save_every=0, **given)
    trainer = Trainer(HostDenoiser(model, model_names(model, None)), data, settings)
    seconds = sum(report.seconds for report in trainer.run())
    return Reached(steps, seconds, trainer.history[-1][1])


def _host_runs(model: Any, data: Sequence[Any], rate: float) -> list[Reached]:
    plan = Plan(steps=0, rank=HOST_RANK, learning_rate=rate)
    return [in_own_process(lambda steps=steps: _host_run(model, data, steps, plan))[0] for steps in LENGTHS]


def _host_run(model: Any, data: Sequence[Any], steps: int, plan: Plan) -> Reached:
    import comfy.sd
    from lora_pack.nodes.comfy_bridge import model_names

    names = model_names(model, None)
    start = _errors(model, data, names)
    begun = time.perf_counter()
    lora = host_lora(model.clone(), data, plan, steps=steps, batch=BATCH, checkpointing=True)
    seconds = time.perf_counter() - begun
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0.0)
    return Reached(steps, seconds, _relative(patched, data, names, start))


def _peft_run(model: Any, data: Sequence[Any]) -> list[Reached]:
    return in_own_process(lambda: _peft_lengths(model, data))[0]


def _peft_lengths(model: Any, data: Sequence[Any]) -> list[Reached]:
    from lora_pack.lora_core.training.objective import UNWEIGHTED, errors
    from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names

    names = model_names(model, None)
    start = _errors(model, data, names)
    denoiser = HostDenoiser(model, names)
    torch.manual_seed(0)
    reached: list[Reached] = []
    seconds = 0.0
    with denoiser.frozen():
        trained = peft_layers(model.model.diffusion_model, PEFT_RANK)
        optimiser = torch.optim.AdamW(trained, lr=PEFT_RATE)
        for step in range(1, LENGTHS[-1] + 1):
            begun = time.perf_counter()
            sample = data[int(torch.randint(len(data), ()))]
            latent = denoiser.scaled(sample.latent[None])
            noise, sigma = torch.randn_like(latent), denoiser.sigmas_at(torch.rand(1))
            asked = denoiser.noising(latent, noise, sigma, UNWEIGHTED)
            conditions = denoiser.conditions([sample], [sample.conditioning], latent.shape)
            output = denoiser.predict(asked.noisy, sigma, conditions)
            torch.autograd.backward(errors(output, asked.target).mean())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            seconds += time.perf_counter() - begun
            if step in LENGTHS:
                reached.append(Reached(step, seconds, _relative(model, data, names, start)))
    return reached
