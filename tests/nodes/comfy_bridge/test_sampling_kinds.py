"""Each sampling object of the host has its objective and its noise levels, measured on the host's own formulas."""

import inspect
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import BadTraining
from lora_pack.nodes.comfy_bridge.sampling_kinds import OBJECTIVE_OF, SCHEDULES, sampling_kind

POSITIONS = torch.linspace(0, 1, 101)
NEAR_0 = 5e-3  # of a flow: its times are those before the shift, and the first of a thousand is not 0
REFUSED = {"IMG_TO_IMG", "IMG_TO_IMG_FLOW"}
EVEN = {  # class of the schedule -> what is even between the ends
    "StableCascadeSampling": "timestep",
    "ModelSamplingDiscrete": "timestep",
    "ModelSamplingDiscreteEDM": "timestep",
    "ModelSamplingContinuousV": "timestep",
    "ModelSamplingCosmosRFlow": "timestep",
    "ModelSamplingContinuousEDM": "timestep",
}


def _sampling(prediction: str, schedule: str) -> Any:
    import comfy.model_sampling as of_host

    kinds = getattr(of_host, schedule), getattr(of_host, prediction)
    return type("ModelSampling", kinds, {})()


def _classes(host: object) -> dict[str, Any]:
    import comfy.model_sampling as of_host

    return {
        name: kind for name, kind in inspect.getmembers(of_host, inspect.isclass) if kind.__module__ == of_host.__name__
    }


def test_every_class_of_the_host_is_in_a_table(host: object) -> None:
    assert set(_classes(host)) <= set(OBJECTIVE_OF) | set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", OBJECTIVE_OF)
def test_what_a_model_should_say_gives_the_clean_picture_by_the_hosts_own_formula(
    prediction: str, schedule: str, host: object
) -> None:
    if not {prediction, schedule} <= set(_classes(host)):
        pytest.skip("this host has no such class")
    sampling = _sampling(prediction, schedule)
    if prediction in REFUSED:
        with pytest.raises(BadTraining, match="in pairs"):
            sampling_kind(sampling)
        return
    sampling.sigma_data = 0.5 if prediction in {"EPS", "EDM", "V_PREDICTION"} else 1.0
    noising = sampling_kind(sampling).noising
    rng = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(3, 4, 6, 6, dtype=torch.float64, generator=rng) for _ in range(2))
    sigmas = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    asked = noising(x0, noise, sigmas, "min-snr")
    torch.testing.assert_close(sampling.calculate_denoised(sigmas, asked.target, asked.noisy), x0)
    if prediction != "V_PREDICTION_DDPM":  # of which the host's sampler holds another picture than its model sees
        host_noisy = torch.stack(
            [
                sampling.noise_scaling(s.reshape(1), n[None].clone(), x[None])[0]
                for s, n, x in zip(sigmas, noise, x0, strict=True)
            ]
        )
        torch.testing.assert_close(asked.noisy, host_noisy)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_levels_are_even_in_the_models_own_time_from_its_least_to_its_largest(
    schedule: str, host: object
) -> None:
    sampling = _sampling("EPS", schedule)
    sigmas = sampling_kind(sampling).sigmas_at(POSITIONS)
    assert float(sigmas[0]) == pytest.approx(float(sampling.sigma_min), rel=1e-3, abs=NEAR_0)
    assert float(sigmas[-1]) == pytest.approx(float(sampling.sigma_max), rel=1e-3)
    assert len(set(sigmas.tolist())) == len(POSITIONS)
    if schedule in EVEN:
        times = torch.stack([torch.as_tensor(sampling.timestep(sigma)).float() for sigma in sigmas])
        steps = times.diff()
        assert float(steps.max() - steps.min()) <= max(
            1.0 if schedule == "ModelSamplingDiscrete" else 0.0, 0.02 * float(steps.mean())
        )


def test_an_unknown_sampling_object_is_refused_in_words(host: object) -> None:
    class Strange:
        sigma_min, sigma_max = torch.tensor(0.1), torch.tensor(1.0)

    with pytest.raises(BadTraining, match="nobody has said yet how models are trained that sample as Strange"):
        sampling_kind(Strange())
