"""A whole model on the device: placing, clones, interrupts, no memory, weights streamed, and compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._apply_models import unet_call
from .._apply_sides import OwnLoader, chain, load, unload
from .._device import MEGABYTE
from .._measure import Row
from ..apply import Bench
from .record import Record

RANK = 8
TOLERANCE = 2e-2  # largest difference over the largest number, of a whole model in 16 bits
Output = Callable[[Any], Tensor]


def run(record: Record, bench: Bench) -> None:
    """Every check, each from a model as it was found."""
    with torch.inference_mode():
        names, _ = bench.files(2, RANK)
        for check in (_placing, _clones, _merged_alike, _interrupted, _out_of_memory, _in_part):
            try:
                check(record, bench, names)
            except Exception as error:  # the other checks still count
                record.failure(check.__name__.strip("_"), error)
                unload()


def _output(bench: Bench) -> Output:
    """One call of a loaded patcher on inputs that are always the same."""

    def call(patcher: Any) -> Tensor:
        load(patcher)
        torch.manual_seed(3)
        return unet_call(patcher.model, bench.side, 1, bench.device)().float().cpu()

    return call


def _apart(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest number."""
    return float((one - other).abs().max() / other.abs().max())


def _behind(bench: Bench, names: list[str], mode: str = "branch", strength: float = 0.8) -> Any:
    return chain(OwnLoader(mode), bench.unet, names, strength)


def _placing(record: Record, bench: Bench, names: list[str]) -> None:
    output = _output(bench)
    base = output(bench.unet)
    patched = _behind(bench, names)
    changed = output(patched)
    (beside,) = patched.get_nested_additional_models()
    elsewhere = sum(parameter.device != bench.device for parameter in beside.model.parameters())
    record.check("matrices that are not on the device while in use", elsewhere, 0, "matrices")
    record.row(Row("matrices beside the layers", beside.model.size / MEGABYTE, None, "", None, "MB"))
    record.check("a file that changes nothing", float(_apart(changed, base) == 0), 0, "files")
    record.check("base after the branch", _apart(output(bench.unet), base), 0, "largest difference")
    del patched, beside
    unload()
    if bench.device.type == "cuda" and not bench.is_dynamic:  # a dynamic model stays until room is needed
        record.check("left on the device after unloading", torch.cuda.memory_allocated() / MEGABYTE, 64, "MB")
    record.check("base after unloading", _apart(output(bench.unet), base), 0, "largest difference")


def _clones(record: Record, bench: Bench, names: list[str]) -> None:
    output = _output(bench)
    base = output(bench.unet)
    first, second = _behind(bench, names[:1]), _behind(bench, names, strength=-0.5)
    alone = [output(first), output(second)]
    pairs = list(zip((first, second), alone, strict=True)) * 2
    worst = max(_apart(output(patcher), wanted) for patcher, wanted in pairs)
    record.check("two clones in turns", worst, 0, "largest difference")
    record.check("base after two clones", _apart(output(bench.unet), base), 0, "largest difference")


def _merged_alike(record: Record, bench: Bench, names: list[str]) -> None:
    output = _output(bench)
    base = output(bench.unet)
    beside, merged = output(_behind(bench, names)), output(_behind(bench, names, "merge"))
    apart = float((beside - merged).abs().max()) / float((merged - base).abs().max())
    record.check("branch and merge of a whole model", apart, 0.3, "of the change")
    record.check("base after a merge", _apart(output(bench.unet), base), 0, "largest difference")


def _interrupted(record: Record, bench: Bench, names: list[str]) -> None:
    import comfy.model_management

    output = _output(bench)
    base = output(bench.unet)
    for name, error in (
        ("an interrupt", comfy.model_management.InterruptProcessingException),
        ("an error", ValueError),
    ):
        patched = _behind(bench, names)
        wanted = output(patched)
        last = list(bench.unet.model.diffusion_model.modules())[-1]
        handle = last.register_forward_pre_hook(_raiser(error))
        try:
            output(patched)
        except error:
            pass
        finally:
            handle.remove()
        record.check(f"the branch after {name}", _apart(output(patched), wanted), 0, "largest difference")
        record.check(f"base after {name}", _apart(output(bench.unet), base), 0, "largest difference")


def _raiser(error: type[BaseException]) -> Callable[..., None]:
    def stop(*_: object) -> None:
        raise error

    return stop


def _out_of_memory(record: Record, bench: Bench, names: list[str]) -> None:
    if bench.device.type != "cuda":
        record.note("no memory: only on CUDA")
        return
    output = _output(bench)
    base = output(bench.unet)
    with _little_room(bench.device, 4 * MEGABYTE):
        try:
            load(_behind(bench, names))
            record.note("no memory: the matrices found room all the same")
        except Exception as error:
            is_told = "memory" in str(error)
            record.check(f"no memory for the matrices, told as {type(error).__name__}", float(not is_told), 0, "errors")
    record.check("base after no memory", _apart(output(bench.unet), base), 0, "largest difference")
    patched = _behind(bench, names)
    record.check("the branch after no memory", float(_apart(output(patched), base) == 0), 0, "files")


@contextmanager
def _little_room(device: torch.device, room: int) -> Iterator[None]:
    """Only so many bytes beyond what is in use can be taken."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + room) / whole, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _in_part(record: Record, bench: Bench, names: list[str]) -> None:
    """As on a card that holds a fifth of the model."""
    output = _output(bench)
    base = output(bench.unet)
    for mode in ("branch", "merge"):
        patched = _behind(bench, names, mode)
        wanted = output(patched)
        with _streamed(bench):
            got = output(patched)
            again = output(_behind(bench, names, mode, 0.3))
        whole = output(_behind(bench, names, mode, 0.3))
        record.check(
            f"a fifth of the model on the device, {mode}", _apart(got, wanted), TOLERANCE, "largest difference"
        )
        record.check(f"the same with another strength, {mode}", _apart(again, whole), TOLERANCE, "largest difference")
    record.check("base after a part of the model", _apart(output(bench.unet), base), 0, "largest difference")


@contextmanager
def _streamed(bench: Bench) -> Iterator[None]:
    """Leave the host a fifth of the model's size, by taking the rest (streamed weights), or by what it believes."""
    import comfy.model_management as management

    unload()
    room = bench.unet.model_size() // 5
    own = management.get_free_memory
    reserved = management.minimum_inference_memory() + 400 * MEGABYTE

    def free(device: Any = None, torch_free_too: bool = False) -> Any:
        used = sum(entry.model_loaded_memory() for entry in management.current_loaded_models)
        left = max(0, room + reserved - used)
        return (left, left) if torch_free_too else left

    taken = None
    if bench.is_dynamic:
        there = torch.cuda.mem_get_info(bench.device)[0]
        taken = torch.empty(max(0, there - room - 2048 * MEGABYTE), dtype=torch.uint8, device=bench.device)
    else:
        management.get_free_memory = free
    try:
        yield
    finally:
        management.get_free_memory = own
        del taken
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        unload()
