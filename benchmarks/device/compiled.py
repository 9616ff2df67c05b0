"""torch.compile around a model with files beside its layers: right, and not compiled again for another strength."""

import time
from typing import Any

import torch

from .._apply_models import unet_call
from .._apply_sides import OwnLoader, chain, load
from .._measure import Row
from ..apply import Bench
from .record import Record

RANK = 16
STRENGTHS = (0.8, 0.3, -1.0)
TOLERANCE = 2e-2
BACKENDS = {"cuda": "inductor", "cpu": "eager"}  # the CPU's inductor needs a compiler, which few machines have


def run(record: Record, bench: Bench) -> None:
    """Three strengths, one compilation. A rehearsal leaves it out: the first call takes most of a minute."""
    import torch._dynamo

    names, _ = bench.files(1, RANK)
    denoiser = bench.unet.model.diffusion_model
    compiled = torch.compile(denoiser, backend=BACKENDS[bench.device.type])
    counts: list[int] = []
    with torch.no_grad():
        for strength in STRENGTHS:
            patched = load(chain(OwnLoader("branch"), bench.unet, names, strength))
            plain = _output(patched, denoiser, bench)
            begin = time.perf_counter()
            fast = _output(patched, compiled, bench)
            seconds = time.perf_counter() - begin
            apart = float((fast - plain).abs().max() / plain.abs().max())
            record.check(f"compiled at strength {strength:g} against plain", apart, TOLERANCE, "largest difference")
            record.row(Row(f"first compiled call at strength {strength:g}", seconds, None, "", None, "s"))
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            del patched
    record.check("compiled again for another strength", counts[-1] - counts[0], 0, "graphs")


def _output(patched: Any, denoiser: Any, bench: Bench) -> torch.Tensor:
    """With the denoiser standing in the model's place for it."""
    own = patched.model.diffusion_model
    torch.manual_seed(3)
    call = unet_call(patched.model, bench.side, 1, bench.device)
    patched.model.diffusion_model = denoiser
    try:
        return call().float().cpu()
    finally:
        patched.model.diffusion_model = own
