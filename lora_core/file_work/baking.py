"""Writes adapters into the weights of a checkpoint, parameter by parameter, and tells what its dtype makes of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters import Adapter, Enlarged
from ..errors import NotMergeable
from ..files.lora_file import Reader
from ..files.own_metadata import HISTORY, STALE
from ..files.safetensors_writer import write_streamed
from ..files.stored_values import same_bits
from ..loading.checkpoint import Checkpoint
from ..names.target_layer import Rows
from .deltas.factored import EXACT
from .progress import Progress, no_progress
from .sources import Source, check_strengths, load_sources
from .writing.target_check import check_out

WEAK = 0.9  # gain below which the stored change is told to be weak
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedParameter:
    """What became of the change of one parameter, D, once it was rounded to the checkpoint's dtype: E."""

    name: str
    dtype: str
    norm: float  # |D|
    gain: float  # <E, D> / <D, D>: the strength that is left, 1 where nothing is lost
    error: float  # |E - D| / |D|


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeReport:
    """What became of all changes, and of the parameters that none was for."""

    changed: Sequence[BakedParameter]
    kept: int  # parameters that were copied
    notes: Sequence[str]

    def lines(self) -> list[str]:
        """The report for a person."""
        whole = sum(one.norm**2 for one in self.changed)
        gain = sum(one.gain * one.norm**2 for one in self.changed) / whole if whole else 1.0
        error = math.sqrt(sum((one.error * one.norm) ** 2 for one in self.changed) / whole) if whole else 0.0
        lines = [
            f"{len(self.changed)} parameters changed, {self.kept} copied.",
            f"Rounding: {gain:.4f} of the strength is left, error {error:.2e} of the change.",
        ]
        weak = sorted((one for one in self.changed if one.gain < WEAK), key=lambda one: one.gain)
        if weak:
            lines.append(f"{len(weak)} parameters keep less than {WEAK:g} of their change, the weakest:")
            lines += [f"  {one.name} ({one.dtype}): {one.gain:.3f}" for one in weak[:SHOWN]]
        return [*lines, *(f"Note: {note}." for note in self.notes)]

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "changed": [
                {"name": one.name, "dtype": one.dtype, "norm": one.norm, "gain": one.gain, "error": one.error}
                for one in self.changed
            ],
            "kept": self.kept,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What one adapter does to a tensor of the checkpoint."""

    adapter: Adapter
    rows: Rows | None  # of the tensor; None for all
    strength: float


class Baking:
    """Adapters for one checkpoint. They act on a weight one after another, in float64, and it is rounded once."""

    def __init__(self, checkpoint: Checkpoint, sources: Sequence[Source]) -> None:
        """Load the adapters.

        Raises:
            BadSetting: every strength is 0, or one is not finite.
            FamilyMismatch: a file is for another family than the checkpoint.
            NotMergeable: keys that fit nothing, or layers that would have to grow; lists all.
        """
        check_strengths(sources)
        self._checkpoint = checkpoint
        self._sources = sources
        what = f"{' and '.join(dict.fromkeys(s.file.name for s in sources))} can't be baked into {checkpoint.name}"
        loras = load_sources(sources, checkpoint.layout(), what, without_parts=True)
        self._changes: dict[str, list[_Change]] = {}
        for source, lora in zip(sources, loras, strict=True):
            for placed in lora.adapters if any(source.strengths) else ():
                stored = checkpoint.place(placed.target)
                change = _Change(placed.adapter, _rows(placed.place.rows, stored.rows), source.strength_in(placed.part))
                self._changes.setdefault(stored.key, []).append(change)
        growing = [name for name, changes in self._changes.items() for c in changes if isinstance(c.adapter, Enlarged)]
        if growing:
            raise NotMergeable(what, [f"'{name}' (it would have to grow)" for name in dict.fromkeys(growing)])
        self._beyond: list[str] = []
        self._notes = [
            f"{source.file.name}: {len(lora.report.ignored)} keys are for nothing in the checkpoint and were left out"
            for source, lora in zip(sources, loras, strict=True)
            if lora.report.ignored
        ]

    def write(self, out: Path, *, replace: bool = False, progress: Progress = no_progress) -> BakeReport:
        """Write the checkpoint with the adapters in it, one parameter in memory at a time.

        Raises FileNotWritten; a file that was there stays, also when the work is interrupted.
        """
        check_out(out, replace=replace)
        self._beyond.clear()
        entries = self._checkpoint.header.entries
        changed: list[BakedParameter] = []
        done = 0

        with self._checkpoint.file.tensors() as reader:

            def make(key: str) -> Tensor:
                nonlocal done
                progress(done, len(entries), key)
                done += 1
                if key not in self._changes:
                    return reader.tensor(key)
                before = self._checkpoint.value(reader, key)
                after = self._after(key, before)
                stored = self._stored(reader, key, after)
                changed.append(self._compare(key, before, after, self._numbers(reader, key, stored)))
                return stored

            plan = {key: (entry.dtype, entry.shape) for key, entry in entries.items()}
            write_streamed(out, plan, self._metadata(), make)
        progress(len(entries), len(entries), "")
        return BakeReport(changed=changed, kept=len(entries) - len(changed), notes=[*self._notes, *self._beyond])

    def check(self, baked: Checkpoint, progress: Progress = no_progress) -> BakeReport:
        """The reverse: hold what a written file differs by from the checkpoint against what the adapters give.

        Raises NotMergeable naming every parameter that no adapter is for and that differs all the same.
        """
        entries = self._checkpoint.header.entries
        changed: list[BakedParameter] = []
        astray: list[str] = [f"'{key}' (not there)" for key in entries if key not in baked.header.entries]
        with self._checkpoint.file.tensors() as reader, baked.file.tensors() as written:
            for number, key in enumerate(entries if not astray else ()):
                progress(number, len(entries), key)
                if key in self._changes:
                    before = self._checkpoint.value(reader, key)
                    changed.append(self._compare(key, before, self._after(key, before), baked.value(written, key)))
                elif not same_bits(reader.tensor(key), written.tensor(key)):
                    astray.append(f"'{key}' (it differs)")
        if astray:
            raise NotMergeable(f"{baked.name} is not what baking gives", astray)
        return BakeReport(changed=changed, kept=len(entries) - len(changed), notes=self._notes)

    def _after(self, key: str, before: Tensor) -> Tensor:
        """The changed parameter, float64."""
        weight = before.to(EXACT)
        for change in self._changes[key]:
            rows = change.rows
            change.adapter.add_delta_(weight if rows is None else weight[rows[0] : rows[1]], change.strength)
        return weight

    def _stored(self, reader: Reader, key: str, numbers: Tensor) -> Tensor:
        """Numbers as the checkpoint stores them, rounded to the nearest; fp8 by the scale beside it."""
        scale = self._checkpoint.scale(reader, key)
        dtype = self._checkpoint.header.entries[key].dtype
        scaled = numbers if scale is None else numbers / scale
        largest = torch.finfo(dtype).max
        beyond = int((scaled.abs() > largest).sum())
        if beyond:  # they would turn into infinity, or NaN in fp8
            self._beyond.append(f"'{key}': {beyond} numbers are larger than {dtype} holds, and are its largest now")
        return scaled.clamp(-largest, largest).to(dtype)

    def _numbers(self, reader: Reader, key: str, stored: Tensor) -> Tensor:
        scale = self._checkpoint.scale(reader, key)
        return stored.float() if scale is None else stored.float() * scale

    def _compare(self, key: str, before: Tensor, after: Tensor, found: Tensor) -> BakedParameter:
        wanted = after - before
        got = found.to(EXACT) - before
        energy = float(wanted.square().sum())
        dtype = str(self._checkpoint.header.entries[key].dtype).removeprefix("torch.")
        return BakedParameter(
            name=key,
            dtype=dtype,
            norm=math.sqrt(energy),
            gain=float((got * wanted).sum()) / energy if energy else 1.0,
            error=math.sqrt(float((got - wanted).square().sum()) / energy) if energy else 0.0,
        )

    def _metadata(self) -> dict[str, str]:
        kept = {k: v for k, v in self._checkpoint.header.metadata.items() if k not in STALE}
        sources = [source.said() for source in self._sources]
        history = {"by": "bake", "checkpoint": self._checkpoint.name, "sources": sources}
        return {"format": "pt", **kept, HISTORY: json.dumps(history, sort_keys=True)}


def _rows(of_layer: Rows | None, of_tensor: Rows | None) -> Rows | None:
    """The rows of a tensor that are some rows of a layer, which itself may be rows of the tensor."""
    if of_layer is None or of_tensor is None:
        return of_layer or of_tensor
    return of_tensor[0] + of_layer[0], of_tensor[0] + of_layer[1]
