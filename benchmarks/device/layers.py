"""Single layers of every kind of weight: the change that a file makes, beside and merged, against float64.

The error is that of the realised change as a share of the exact one, norm over norm. A branch may be off by the
rounding of the output that it is added to, a merge by that of the weight too, which is reported and not judged.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .._apply_models import LAYER, QUANTISED_STORAGES, LayerShape, carried, carry_layer, stored_layer
from .._apply_sides import OwnLoader, with_hooks, with_loader
from .._measure import Row
from .record import Record

STRENGTH, RANK = 0.8, 16
SHAPES = (LayerShape("Linear 1280", (1280, 1280), 256), LayerShape("conv 320 3x3", (320, 320, 3, 3), 256))
SMALL = (LayerShape("Linear 128", (128, 128), 8), LayerShape("conv 16 3x3", (16, 16, 3, 3), 16))
STORAGES = ("fp32", "fp16", "bf16", "fp8_e4m3", "int8", "nvfp4")
COMPUTED: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHARE = 0.1  # norm of the delta over that of the weight
# Units in the last place that a branch may be off: of the output, and of the factors in the dtype of the computation.
ROUNDINGS = 8
STEP: Mapping[str, float] = {"fp32": 2**-23, "fp16": 2**-10, "bf16": 2**-7}
PATH = f"diffusion_model.{LAYER}"


def run(record: Record, device: torch.device, folder: Path, *, small: bool) -> None:
    """All shapes, storages, dtypes and algorithms. Without TF32, in which a card rounds float32 to 10 bits."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for shape in SMALL if small else SHAPES:
        for storage in STORAGES:
            for computed in ("bf16",) if small else COMPUTED:
                for algorithm, tensors in ALGORITHMS.items():
                    if len(shape.weight) > 2 and algorithm != "LoRA":
                        continue
                    case = f"{algorithm}, {shape.name} in {storage}, computed in {computed}"
                    try:
                        _case(record, case, shape, storage, computed, tensors, device, folder)
                    except Exception as error:  # a card or a host that can't: the other cases still count
                        record.failure(case, error)


def _lora(shape: tuple[int, ...], draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    up = draw(shape[0], RANK)
    down = draw(RANK, *shape[1:])
    return {"lora_A.weight": down, "lora_B.weight": up.reshape(*up.shape, *[1] * (down.dim() - 2))}


def _dora(shape: tuple[int, ...], draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    return _lora(shape, draw) | {"dora_scale": draw(shape[0], 1).abs() + 0.5}


def _lokr(shape: tuple[int, ...], draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"lokr_w1": draw(8, 8), "lokr_w2": draw(shape[0] // 8, shape[1] // 8)}


ALGORITHMS: Mapping[str, Callable[[tuple[int, ...], Callable[..., Tensor]], dict[str, Tensor]]] = {
    "LoRA": _lora, "DoRA": _dora, "LoKr": _lokr,
}  # fmt: skip


def exact_delta(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """What the file says in float64; alpha is the rank. DoRA: m (W + D) / |W + D| - W, norms over a row's inputs."""
    if "lokr_w1" in tensors:
        return torch.kron(tensors["lokr_w1"].double(), tensors["lokr_w2"].double())
    down, up = tensors["lora_A.weight"].double(), tensors["lora_B.weight"].double()
    delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    if "dora_scale" not in tensors:
        return delta
    whole = weight.double() + delta
    return tensors["dora_scale"].double() * whole / whole.norm(dim=1, keepdim=True) - weight.double()


def _case(
    record: Record,
    case: str,
    shape: LayerShape,
    storage: str,
    computed: str,
    tensors_of: Callable[[tuple[int, ...], Callable[..., Tensor]], dict[str, Tensor]],
    device: torch.device,
    folder: Path,
) -> None:
    from lora_pack.lora_core.weave.frozen_module import dense_weight

    found = stored_layer(shape, storage)
    if found is None:
        return
    layer, stored = found
    dtype = COMPUTED[computed]
    weight = dense_weight(layer).cpu().double()
    model = carry_layer(layer, dtype, stored, device)
    rng = torch.Generator().manual_seed(1)
    tensors = tensors_of(tuple(shape.weight), lambda *sides: torch.randn(*sides, generator=rng))
    if "dora_scale" not in tensors:
        size = SHARE * weight.norm() / exact_delta(tensors, weight).norm()
        tensors = {name: (tensor * size**0.5).float() for name, tensor in tensors.items()}
    name = f"{abs(hash(case))}.safetensors"
    save_file({f"{PATH}.{key}": tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    x = shape.input(1, dtype, torch.device("cpu"))
    exact = _product(x.double(), STRENGTH * exact_delta(tensors, weight))

    def output(mode: str | None) -> Tensor:
        side = with_hooks(model, [], lambda: None) if mode is None else with_loader(
            OwnLoader(mode), model, [name], lambda: None
        )  # fmt: skip
        with side:
            return carried(model)(x.to(device)).cpu().double()

    try:
        base = output(None)
    except Exception as error:  # whatever a host raises whose own layer is not computed on this device
        record.note(f"{case}: the host's own layer is not computed on this device: {str(error)[:100]}")
        return
    size = float(exact.norm())
    branch = float((output("branch") - base - exact).norm()) / size
    limit = ROUNDINGS * STEP[computed] * max(1.0, float(base.norm()) / size)
    if _is_judged(tensors, storage):
        record.check(f"{case}, branch", branch, limit, "of the change")
    try:
        merged = float((output("merge") - base - exact).norm()) / size
        record.row(Row(case, branch, merged, "merged", merged / max(branch, 1e-12), "of the change"))
    except Exception as error:  # whatever a host raises that can't merge into such weights
        record.note(f"{case}, merge: {type(error).__name__}: {str(error)[:100]}")
    after = float((output(None) - base).abs().max())
    record.check(f"{case}, base after", after, 0.0, "largest difference")


def _is_judged(tensors: Mapping[str, Tensor], storage: str) -> bool:
    """Plain weights get merged what has no low-rank form; DoRA also multiplies what a quantised product has rounded."""
    if "lora_A.weight" in tensors and "dora_scale" not in tensors:
        return True
    return storage == "fp8_e4m3" or ("lokr_w1" in tensors and storage in QUANTISED_STORAGES)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 2:
        return torch.nn.functional.linear(x, weight)
    return torch.nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
