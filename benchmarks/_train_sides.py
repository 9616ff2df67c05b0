"""The sides of benchmarks.train: our trainer, a plain PEFT loop, and the host's node, each in a process of its own."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._measure import measure

ATTENTION = r".*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
NO_LORA = "[None]"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """What a side is to do."""

    steps: int  # measured; one more is not
    rank: int
    learning_rate: float


def in_own_process(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and its peak of resident memory in MB beyond what was there before it.

    A fork, so that no side finds memory that another one has freed, and every side may write to the model.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        found: list[Any] = []
        try:
            cost = measure(lambda: found.append(work()))
            sender.send((found[0], cost.peak))
        except BaseException as error:
            sender.send((error.__class__.__name__ + ": " + str(error)[:300], -1.0))
            raise

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        value, peak = receiver.recv()
    finally:
        process.join()
    if peak < 0:
        raise RuntimeError(str(value))
    return value, peak


def our_steps(model: Any, data: Sequence[Any], plan: Plan, *, checkpointing: bool) -> float:
    """Seconds of a step of this pack's trainer, the median."""
    from lora_pack.lora_core.training import Trainer, TrainSettings
    from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names

    last = plan.steps + 2  # the last step's time has the closing validation in it
    settings = TrainSettings(
        steps=last,
        batch=len(data),
        rank=plan.rank,
        validate_every=0,
        save_every=0,
        checkpointing="on" if checkpointing else "off",
    )
    trainer = Trainer(HostDenoiser(model, model_names(model, None)), data, settings)
    return statistics.median([report.seconds for report in trainer.run() if 1 < report.step < last])


def peft_steps(
    model: Any, data: Sequence[Any], plan: Plan, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> float:
    """Seconds of a step of a plain loop over PEFT's layers in the host's UNet, the median. The UNet keeps them."""
    unet = model.model.diffusion_model.to(device)
    trained = peft_layers(unet, plan.rank)
    optimiser = torch.optim.AdamW(trained, lr=plan.learning_rate)
    latents = torch.stack([sample.latent for sample in data]).to(device, dtype)
    texts = torch.cat([sample.conditioning[0][0] for sample in data]).to(device, dtype)
    wide = unet.label_emb[0][0].in_features if getattr(unet, "num_classes", None) else 0
    beside = {"y": torch.randn(len(data), wide, device=device, dtype=dtype)} if wide else {}
    seconds: list[float] = []
    for _ in range(plan.steps + 1):
        started = time.perf_counter()
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (len(data),), device=device).float()
        output = unet(latents + noise, times, context=texts, **beside)
        torch.autograd.backward((output.float() - noise.float()).square().mean())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def peft_layers(unet: torch.nn.Module, rank: int) -> list[torch.nn.Parameter]:
    """Put PEFT's LoRA on the attention layers; what is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION), unet)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def host_steps(model: Any, data: Sequence[Any], plan: Plan, *, checkpointing: bool) -> float:
    """Seconds of a step of the host's node. It tells none, so they are what so many steps more take, for each."""
    seconds: list[float] = []
    for steps in (1, 1 + plan.steps):
        started = time.perf_counter()
        host_lora(model, data, plan, steps=steps, batch=len(data), checkpointing=checkpointing)
        seconds.append(time.perf_counter() - started)
    return (seconds[1] - seconds[0]) / plan.steps


def host_lora(
    model: Any, data: Sequence[Any], plan: Plan, *, steps: int, batch: int, checkpointing: bool
) -> Mapping[str, torch.Tensor]:
    """What the host's TrainLoraNode makes: its tensors by its own keys."""
    from comfy_extras.nodes_train import TrainLoraNode

    if len(data) == batch:
        data = [*data, *data]  # with one picture alone, the node of ComfyUI 0.3.75 fails
    inputs: dict[str, Any] = {
        "model": [model],
        "latents": [{"samples": sample.latent[None].clone()} for sample in data],
        "positive": [sample.conditioning for sample in data],
        "batch_size": [batch],
        "grad_accumulation_steps": [1],
        "steps": [steps],
        "learning_rate": [plan.learning_rate],
        "rank": [plan.rank],
        "optimizer": ["AdamW"],
        "loss_function": ["MSE"],
        "seed": [0],
        "training_dtype": ["fp32"],
        "lora_dtype": ["fp32"],
        "algorithm": ["LoRA"],
        "gradient_checkpointing": [checkpointing],
        "existing_lora": [NO_LORA],
        **_newer_inputs(TrainLoraNode),
    }
    with torch.inference_mode(False):
        result = TrainLoraNode.execute(**inputs).args
    return next(entry for entry in result if isinstance(entry, dict) and "loss" not in entry)


def _newer_inputs(node: Any) -> dict[str, Any]:
    """Of hosts after 0.3.75, at their defaults."""
    import inspect

    known = inspect.signature(node.execute).parameters
    newer = {"bucket_mode": [False], "bypass_mode": [False], "offloading": [False], "quantized_backward": [False]}
    return {name: value for name, value in newer.items() if name in known}
