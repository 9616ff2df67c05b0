"""Trainings of a few steps on the device: in 16 bits and on fp8 weights, stopped and gone on, and what a step costs."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._device import MEGABYTE
from .._measure import Row
from .._models import SD15, SDXL
from ..train import SMALL, data_of, model_of
from .record import Record

STEPS, STOPPED = 20, 8
RANK = 16
DRIFT = 0.05  # of a resumed training's factors, norm over norm: some CUDA sums have no fixed order
KINDS: Mapping[str, tuple[torch.dtype, torch.dtype | None]] = {  # name -> kept as, computed in
    "fp32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp8 weights": (torch.float8_e4m3fn, torch.bfloat16),
}


def run_checks(record: Record, device: torch.device, *, small: bool) -> None:
    """Every kind of weight."""
    config = SMALL if not small else dict(SMALL) | {"model_channels": 32, "channel_mult": [1, 2, 2]}
    data = data_of(4, 16 if small else 32, int(config["context_dim"]))
    steps, stopped = (4, 2) if small else (STEPS, STOPPED)
    for kind, (kept, computed) in list(KINDS.items())[-1 if small else 0 :]:
        try:
            _one_kind(record, kind, model_of(config, kept, computed, device), data, steps, stopped)
        except Exception as error:  # the other kinds still count
            record.failure(kind, error)


def _one_kind(record: Record, kind: str, model: Any, data: Sequence[Any], steps: int, stopped: int) -> None:
    weights = {name: p.detach().float().cpu() for name, p in model.model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        whole, losses = _trained(model, data, steps)
        state = Path(folder) / "state"
        _trained(model, data, steps, state=state, stop=stopped)
        resumed, _ = _trained(model, data, steps, state=state)
    finite = sum(loss == loss and abs(loss) < 1e9 for loss in losses)
    record.check(f"{kind}, losses that are no numbers", len(losses) - finite, 0, "steps")
    few = max(1, len(losses) // 4)
    fallen = (sum(losses[-few:]) / few) / (sum(losses[:few]) / few)
    record.row(Row(f"{kind}, loss at the end / at the start", fallen, None, "", None, "times"))
    drift = float((whole - resumed).norm() / whole.norm())
    record.check(f"{kind}, stopped and gone on against in one go", drift, DRIFT, "of the factors")
    record.check(f"{kind}, adapters that learned nothing", float(whole.norm() == 0), 0, "adapters")
    now = {name: p.detach().float().cpu() for name, p in model.model.named_parameters()}
    after = max(float((now[name] - weight).abs().max()) for name, weight in weights.items())
    record.check(f"{kind}, weights after training", after, 0, "largest difference")


def _trained(
    model: Any, data: Sequence[Any], steps: int, *, state: Path | None = None, stop: int | None = None
) -> tuple[torch.Tensor, list[float]]:
    """The factors, flat, and the losses; `stop` ends it after that step, its state left behind."""
    from lora_pack.lora_core.training import Trainer, TrainSettings
    from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names

    settings = TrainSettings(
        steps=steps, batch=2, rank=RANK, learning_rate=2e-3, validate_every=0, save_every=0, weighting="none"
    )
    trainer = Trainer(HostDenoiser(model, model_names(model, None)), data, settings, state=state)
    run = trainer.run()
    for report in run:
        if report.step == stop:
            trainer.save()
            break
    run.close()
    return trainer.parameters.whole.detach().float().cpu(), list(trainer.losses)


@dataclass(frozen=True)
class Subject:
    """A model whose steps are timed."""

    config: Mapping[str, Any]
    side: int  # of the latent
    batches: Sequence[int]


SUBJECTS = {"SD1.5": Subject(SD15, 64, (1, 4)), "SDXL": Subject(SDXL, 128, (1,))}
TIMED = 6  # steps


def run_costs(record: Record, device: torch.device, *, small: bool) -> None:
    """Seconds and memory of a step beside PEFT's, in bf16."""
    subjects = {"tiny SD1.5": Subject(dict(SMALL) | {"model_channels": 32}, 16, (1,))} if small else SUBJECTS
    for name, subject in subjects.items():
        for batch in subject.batches:
            model = model_of(subject.config, torch.bfloat16, None, device)
            data = data_of(batch, subject.side, int(subject.config["context_dim"]), subject.config["adm_in_channels"])
            case = f"{name}, batch {batch}, latent {subject.side}, rank {RANK}"
            try:
                ours = _cost(lambda m=model, d=data: _our_steps(m, d), device)
                peft = _cost(lambda m=model, d=data: _peft_steps(m, d, device), device)
            except Exception as error:
                record.failure(case, error)
                continue
            record.row(Row(f"{case}, step", ours[0], peft[0], "PEFT", peft[0] / ours[0], "s"))
            record.row(Row(f"{case}, memory", ours[1], peft[1], "PEFT", peft[1] / max(ours[1], 0.1), "MB"))


def _cost(work: Callable[[], float], device: torch.device) -> tuple[float, float]:
    """Seconds of a step, and the peak of the device's memory in MB beyond what was there."""
    if device.type != "cuda":
        return work(), 0.0
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    ground = torch.cuda.memory_allocated()
    seconds = work()
    torch.cuda.synchronize()
    return seconds, (torch.cuda.max_memory_allocated() - ground) / MEGABYTE


def _our_steps(model: Any, data: Sequence[Any]) -> float:
    from .._train_sides import Plan, our_steps

    return our_steps(model, data, Plan(TIMED, RANK, 1e-4), checkpointing=False)


def _peft_steps(model: Any, data: Sequence[Any], device: torch.device) -> float:
    from .._train_sides import Plan, peft_steps

    return peft_steps(model, data, Plan(TIMED, RANK, 1e-4), device=device, dtype=torch.bfloat16)
