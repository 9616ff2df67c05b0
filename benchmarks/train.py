"""One training step: ours against ComfyUI's TrainLoraNode and a plain PEFT loop on the same UNet.

Seconds per step, medians of the steps after the first. The host's node tells no times, so its step is a third of
what three steps more take. PEFT: LoraConfig on the same attention layers, AdamW over its parameters, the pictures of a
batch in one forward. All on random weights, float32, attention layers of rank 16 (the host's node trains every layer).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._host import start_host
from ._measure import Row, write_rows
from ._models import SD15

RANK = 16
STEPS = 4  # measured, after one that is not
HOST_STEPS = (1, 4)
TOKENS = 77
ATTENTION = r".*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
SMALL: Mapping[str, Any] = dict(SD15) | {
    "model_channels": 64, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1], "num_heads": 4,
}  # fmt: skip
MODELS: Mapping[str, tuple[Mapping[str, Any], int]] = {  # name -> configuration, side of the latent
    "small UNet": (SMALL, 32),
    "SD1.5": (SD15, 32),
}
BATCHES = (1, 4)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the rows")
    parser.add_argument("--only", choices=list(MODELS), help="one of the models")
    options = parser.parse_args()
    host = start_host()
    rows: list[Row] = []
    print(f"ComfyUI: {host}\n| UNet, batch | ours | PEFT | host, checkpointing | host |\n|---|---:|---:|---:|---:|")
    for name, (config, side) in MODELS.items():
        if options.only not in (None, name):
            continue
        model = _model(config)
        count = sum(parameter.numel() for parameter in model.model.parameters()) / 1e6
        for batch in BATCHES:
            data = _data(batch, side, int(config["context_dim"]))
            sides: dict[str, Callable[[], float]] = {
                "ours": lambda model=model, data=data: _ours(model, data),
                "PEFT": lambda model=model, data=data: _peft(model, data),
                "host, checkpointing": lambda model=model, data=data: _host_node(model, data, checkpointing=True),
                "host": lambda model=model, data=data: _host_node(model, data, checkpointing=False),
            }
            seconds = {side: run() for side, run in sides.items()}
            case = f"{name} ({count:.1f} M parameters), batch {batch}"
            print(f"| {case} | " + " | ".join(f"{value:.3f}" for value in seconds.values()) + " |", flush=True)
            ours = seconds.pop("ours")
            rows += [Row(f"{case}, step", ours, peer, who, peer / ours, "s") for who, peer in seconds.items()]
    write_rows(options.json, rows)


def _model(config: Mapping[str, Any]) -> Any:
    import comfy.model_patcher
    import comfy.supported_models

    class Bare(comfy.supported_models.SD15):
        unet_config: Mapping[str, Any] = {}
        unet_extra_config: Mapping[str, Any] = {}

    settings = Bare(dict(config))
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model({}, "", device="cpu").eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        parameter.copy_(torch.randn(parameter.shape, generator=rng) * (0.7 * fan**-0.5 if parameter.dim() > 1 else 0.1))
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _data(count: int, side: int, width: int) -> Sequence[Any]:
    """Pictures that all have captions of their own."""
    from lora_pack.lora_core.dataset import TrainSample

    rng = torch.Generator().manual_seed(1)
    return [
        TrainSample(
            latent=torch.randn(4, side, side, generator=rng),
            conditioning=[[torch.randn(1, TOKENS, width, generator=rng), {}]],
            caption=str(number),
            name=str(number),
            size=(side * 8, side * 8),
        )
        for number in range(count)
    ]


def _ours(model: Any, data: Sequence[Any]) -> float:
    from lora_pack.lora_core.training import Trainer, TrainSettings
    from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names

    settings = TrainSettings(
        steps=STEPS + 1, batch=len(data), rank=RANK, validate_every=0, save_every=0, checkpointing="off"
    )
    trainer = Trainer(HostDenoiser(model, model_names(model, None)), data, settings)
    return statistics.median([report.seconds for report in trainer.run() if report.step > 1])


def _peft(model: Any, data: Sequence[Any]) -> float:
    from peft import LoraConfig, inject_adapter_in_model

    unet = copy.deepcopy(model.model.diffusion_model)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION), unet)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    latents = torch.stack([sample.latent for sample in data])
    texts = torch.cat([sample.conditioning[0][0] for sample in data])
    seconds: list[float] = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (len(data),)).float()
        torch.autograd.backward((unet(latents + noise, times, context=texts) - noise).square().mean())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _host_node(model: Any, data: Sequence[Any], *, checkpointing: bool) -> float:
    from comfy_extras.nodes_train import TrainLoraNode

    batch, data = len(data), [*data, *data]  # with one picture alone, the node of ComfyUI 0.3.75 fails
    inputs: dict[str, Any] = {
        "model": [model],
        "latents": [{"samples": sample.latent[None].clone()} for sample in data],
        "positive": [sample.conditioning for sample in data],
        "batch_size": [batch],
        "grad_accumulation_steps": [1],
        "learning_rate": [1e-4],
        "rank": [RANK],
        "optimizer": ["AdamW"],
        "loss_function": ["MSE"],
        "seed": [0],
        "training_dtype": ["fp32"],
        "lora_dtype": ["fp32"],
        "algorithm": ["LoRA"],
        "gradient_checkpointing": [checkpointing],
        "existing_lora": ["[None]"],
    }
    seconds: list[float] = []
    for steps in HOST_STEPS:
        started = time.perf_counter()
        with torch.inference_mode(False):
            TrainLoraNode.execute(**inputs, steps=[steps])
        seconds.append(time.perf_counter() - started)
    return (seconds[1] - seconds[0]) / (HOST_STEPS[1] - HOST_STEPS[0])


if __name__ == "__main__":
    main()
