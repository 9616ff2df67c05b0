"""What the host's sampling objects say of a model: how its pictures are noised, and which noise levels it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...lora_core.errors import BadTraining
from ...lora_core.training.objective import OBJECTIVES, Noising

OF_PICTURES = "models that make one picture of another can't be trained: their pictures come in pairs"


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why models of a kind can't be trained."""

    reason: str


# First class of the sampling object's line of descent that is listed here -> key of lora_core's OBJECTIVES.
OBJECTIVE_OF: Mapping[str, str | _Refused] = {
    "IMG_TO_IMG": _Refused(OF_PICTURES),
    "IMG_TO_IMG_FLOW": _Refused(OF_PICTURES),
    "EDM": "edm",
    "X0": "x0",
    "COSMOS_RFLOW": "flow of added noise",
    "V_PREDICTION_DDPM": "v of scaled input",
    "V_PREDICTION": "v",
    "EPS": "eps",
    "CONST": "flow",
}


def _at_times(sampling: Any, positions: Tensor) -> Tensor:
    """Noise levels at equal steps between the model's first and last time."""
    first, last = _ends(sampling)
    return sampling.sigma(first + positions * (last - first))


def _at_whole_times(sampling: Any, positions: Tensor) -> Tensor:
    """The same for models that know whole times only."""
    first, last = _ends(sampling)
    return sampling.sigma((first + positions * (last - first)).round())


def _at_each_time(sampling: Any, positions: Tensor) -> Tensor:
    """The same for a sampling object that can be asked for one time only."""
    first, last = _ends(sampling)
    return torch.tensor([float(sampling.sigma(time)) for time in first + positions * (last - first)])


def _ends(sampling: Any) -> tuple[float, float]:
    """First and last time; the noise levels are on the model's device, positions on the CPU."""
    least, most = (torch.as_tensor(end).float().cpu() for end in (sampling.sigma_min, sampling.sigma_max))
    return float(sampling.timestep(least)), float(sampling.timestep(most))


# First class of the line of descent that is listed here -> noise levels at positions 0 (picture) to 1 (noise).
SCHEDULES: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "StableCascadeSampling": _at_times,  # time 0..1
    "ModelSamplingDiscreteEDM": _at_times,  # time ln(sigma) / 4
    "ModelSamplingDiscrete": _at_whole_times,  # time 0..999
    "ModelSamplingCosmosRFlow": _at_each_time,  # time sigma / (sigma + 1)
    "ModelSamplingContinuousV": _at_times,  # time atan(sigma) * 2 / pi
    "ModelSamplingContinuousEDM": _at_times,  # time ln(sigma) / 4
    "ModelSamplingDiscreteFlow": _at_times,  # time sigma * multiplier, before the shift
    "ModelSamplingFlux": _at_times,
}


@dataclass(frozen=True, slots=True, eq=False)
class SamplingKind:
    """A model's sampling object, as training uses it."""

    sampling: Any
    noising: Noising
    schedule: Callable[[Any, Tensor], Tensor]

    def sigmas_at(self, positions: Tensor) -> Tensor:
        """[n] positions -> [n] noise levels, float32, on the CPU."""
        return self.schedule(self.sampling, positions).float().cpu().clone()


def sampling_kind(sampling: Any) -> SamplingKind:
    """Raises BadTraining where a model can't be trained, or nobody knows how."""
    lineage = [kind.__name__ for kind in type(sampling).__mro__]
    found = next((OBJECTIVE_OF[name] for name in lineage if name in OBJECTIVE_OF), None)
    schedule = next((SCHEDULES[name] for name in lineage if name in SCHEDULES), None)
    if isinstance(found, _Refused):
        raise BadTraining([found.reason])
    if found is None or schedule is None:
        kinds = ", ".join(name for name in lineage if name not in ("Module", "object"))
        raise BadTraining([f"nobody has said yet how models are trained that sample as {kinds}"])
    data_scale, noise_scale = (float(getattr(sampling, name, 1.0)) for name in ("sigma_data", "noise_scale"))
    return SamplingKind(sampling, Noising(OBJECTIVES[found], data_scale, noise_scale), schedule)
