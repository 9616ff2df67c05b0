"""The strength sweep on the real host: every cell of the batch is the picture of a run of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.lora_core import open_lora
from lora_pack.lora_core.errors import BadSetting, NotPerImage
from lora_pack.lora_core.weave.sweep import Axis, Sweep
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.apply.strength_schedule import LoraScheduleNode
from lora_pack.nodes.apply.strength_sweep import StrengthSweep
from lora_pack.nodes.apply.sweep_grid import SweepGrid
from lora_pack.nodes.pictures.sweep_grid import GAP, HEADS, LEGEND, SIDE
from torch import Tensor

TOLERANCE = 5e-5  # of the largest number of a latent, in float32 through three steps


def _sample(model: Any, latent: dict[str, Any], seed: int = 7, sampler: str = "euler") -> Tensor:
    """As the host's KSampler node does it."""
    import comfy.sample

    generator = torch.Generator().manual_seed(5)
    conds = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    noise = comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index"))
    mask = latent.get("noise_mask")
    return comfy.sample.sample(
        model, noise, 3, 2.0, sampler, "simple", *conds, latent["samples"], disable_pbar=True, seed=seed,
        noise_mask=mask,
    )  # fmt: skip


def _latent(**more: Any) -> dict[str, Any]:
    return {"samples": torch.zeros(1, 4, 16, 16), **more}


def _assert_close(found: Tensor, expected: Tensor) -> None:
    assert torch.allclose(found, expected, atol=TOLERANCE * float(expected.abs().max()), rtol=0)


def _calls(model: Any) -> list[int]:
    """Filled with the number of samples in every call of a model."""
    found: list[int] = []

    def note(executor: Any, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        found.append(x.shape[0])
        return executor(x, *arguments, **options)

    model.add_wrapper_with_key("diffusion_model", "lora_loom_strengths", note)
    return found


def _apply(model: Any, name: str, strength: float) -> Any:
    return ApplyLora.execute(model, name, strength, 1.0, "error").args[0]


@pytest.mark.parametrize("place", [None, 2])
def test_each_cell_is_the_picture_of_a_run_at_its_strength(model: Any, style: str, place: int | None) -> None:
    latent = _latent() if place is None else _latent(batch_index=[place])
    patched, batch, sweep, report = StrengthSweep.execute(model, latent, style, "0, 0.5..1 step 0.5, -1").args
    cells = _sample(patched, batch)
    assert len(cells) == sweep.cells == 4
    for cell, strength in zip(cells, (0.0, 0.5, 1.0, -1.0), strict=True):
        _assert_close(cell[None], _sample(_apply(model, style, strength), latent))
    assert float((cells[0] - cells[1]).abs().max()) > 100 * TOLERANCE * float(cells.abs().max())
    assert "style.safetensors" in report


def test_a_second_file_makes_every_pair(model: Any, style: str, other: str) -> None:
    output = StrengthSweep.execute(model, _latent(), style, "0.2, 0.8", lora_name_2=other, strengths_2="0, 0.5, 1")
    patched, batch, sweep, _ = output.args
    assert sweep.shape == (3, 2)
    cells = _sample(patched, batch)
    pairs = [(first, second) for second in (0.0, 0.5, 1.0) for first in (0.2, 0.8)]
    for cell, (first, second) in zip(cells, pairs, strict=True):
        _assert_close(cell[None], _sample(_apply(_apply(model, style, first), other, second), _latent()))


def test_a_lora_in_memory_and_a_mask_go_through_the_sweep(model: Any, style: str, loras_dir: Path) -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    latent = {"samples": torch.full((1, 4, 16, 16), 0.3), "noise_mask": mask}
    lora = open_lora(loras_dir / style)
    patched, batch, sweep, _ = StrengthSweep.execute(model, latent, "no such file", "0.3, 0.9", lora=lora).args
    cells = _sample(patched, batch)
    for cell, strength in zip(cells, (0.3, 0.9), strict=True):
        _assert_close(cell[None], _sample(_apply(model, style, strength), latent))
    assert sweep.columns.name == "style"


def test_a_sweep_leaves_the_model_and_the_latent_as_they_were(model: Any, style: str) -> None:
    latent = _latent()
    before = _sample(model, latent)
    patched, batch, *_ = StrengthSweep.execute(model, latent, style, "0, 1").args
    _sample(patched, batch)
    assert torch.equal(_sample(model, latent), before)
    assert set(latent) == {"samples"} and latent["samples"].shape[0] == 1


def test_what_makes_no_sense_is_refused_before_anything_is_sampled(model: Any, style: str) -> None:
    with pytest.raises(BadSetting, match="2 images"):
        StrengthSweep.execute(model, {"samples": torch.zeros(2, 4, 8, 8)}, style, "0, 1")
    with pytest.raises(BadSetting, match="without a second LoRA"):
        StrengthSweep.execute(model, _latent(), style, "0, 1", strengths_2="0, 1")
    with pytest.raises(BadSetting, match="there is none"):
        StrengthSweep.execute(model, _latent(), style, "0", lora_name_2=style, strengths_2="")
    refused = StrengthSweep.validate_inputs(style, "0, many", "gone.safetensors", "x")
    assert isinstance(refused, str)
    assert all(part in refused for part in ("'many'", "gone.safetensors", "'x'"))
    assert StrengthSweep.validate_inputs(style, "0, 1", "None", "") is True
    assert StrengthSweep.validate_inputs("gone", "0, 1", "None", "", lora=None) is True


def test_a_schedule_that_cannot_be_read_is_refused_before_the_run() -> None:
    assert LoraScheduleNode.validate_inputs("0:0, 1:1") is True
    assert LoraScheduleNode.validate_inputs(None) is True
    assert "'half'" in str(LoraScheduleNode.validate_inputs("half, 0:1"))
    assert LoraScheduleNode.execute("1:0, 0:1").args[0].points == ((0.0, 1.0), (1.0, 0.0))


@pytest.mark.parametrize("rows", [None, Axis("second", (0.25, 1.0))], ids=["one row", "two rows"])
def test_the_grid_shows_each_image_where_its_strengths_are(rows: Axis | None) -> None:
    sweep = Sweep(Axis("first", (0.0, 0.5, 1.0)), rows)
    images = torch.rand(sweep.cells, 24, 40, 3, generator=torch.Generator().manual_seed(0))
    picture = SweepGrid.execute(images, sweep).args[0]
    left, top = SIDE if rows else GAP, LEGEND + HEADS
    assert picture.shape == (1, top + sweep.shape[0] * (24 + GAP), left + 3 * (40 + GAP), 3)
    assert picture.dtype == torch.float32 and float(picture.min()) >= 0 and float(picture.max()) <= 1
    for cell, image in enumerate(images):
        x, y = left + cell % 3 * (40 + GAP), top + cell // 3 * (24 + GAP)
        assert torch.equal(picture[0, y : y + 24, x : x + 40], image)
    assert float(picture[0, LEGEND:top, left : left + 40].min()) < 0.5  # the first label
    if rows:
        assert float(picture[0, top : top + 24, : SIDE - GAP].min()) < 0.5


def test_a_grid_of_other_images_says_how_many_were_expected() -> None:
    with pytest.raises(BadSetting, match=r"3 images were expected.*found 2"):
        SweepGrid.execute(torch.zeros(2, 8, 8, 3), Sweep(Axis("a", (0.0, 0.5, 1.0))))


def _samplers() -> list[str]:
    import comfy.samplers

    return list(comfy.samplers.SAMPLER_NAMES)


@pytest.mark.filterwarnings("ignore")  # the samplers' own
@pytest.mark.parametrize("masked", [False, True], ids=["a whole picture", "under a mask"])
def test_with_every_sampler_of_the_host_each_cell_is_the_picture_of_its_own_run(
    model: Any, style: str, masked: bool, subtests: pytest.Subtests
) -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    latent = _latent(noise_mask=mask) if masked else _latent()
    patched, batch, *_ = StrengthSweep.execute(model, latent, style, "0.3, 0.9").args
    for sampler in _samplers() if not masked else ("euler", "ddim", "lcm", "dpmpp_2m"):
        with subtests.test(sampler):
            cells = _sample(patched, batch, sampler=sampler)
            for cell, strength in zip(cells, (0.3, 0.9), strict=True):
                _assert_close(cell[None], _sample(_apply(model, style, strength), latent, sampler=sampler))


@pytest.mark.parametrize(("sampler", "samples"), [("euler", 4), ("dpmpp_2m", 4), ("lcm", 2), ("euler_ancestral", 2)])
def test_what_treats_each_image_for_itself_is_sampled_in_one_batch(
    model: Any, style: str, sampler: str, samples: int
) -> None:
    patched, batch, *_ = StrengthSweep.execute(model, _latent(), style, "0.3, 0.9").args
    calls = _calls(patched)
    _sample(patched, batch, sampler=sampler)
    assert set(calls) == {samples}  # each image with its positive and its negative prompt


def test_perp_neg_and_a_wrapper_that_calls_the_model_image_by_image_keep_a_sweep_working(
    model: Any, style: str
) -> None:
    def one_by_one(apply: Any, given: dict[str, Any]) -> Tensor:
        parts = [
            apply(
                given["input"][at : at + 1],
                given["timestep"][at : at + 1],
                **{
                    key: value[at : at + 1] if isinstance(value, Tensor) else value for key, value in given["c"].items()
                },
            )
            for at in range(given["input"].shape[0])
        ]
        return torch.cat(parts)

    def perpendicular(given: dict[str, Any]) -> Tensor:
        """Guidance with a sum over all images, as that of Perp-Neg."""
        cond, uncond = given["cond"], given["uncond"]
        return uncond + 2 * (cond - (cond * uncond).sum() / uncond.norm() ** 2 * uncond)

    for change in ("set_model_unet_function_wrapper", "set_model_sampler_cfg_function"):
        changed = model.clone()
        getattr(changed, change)(one_by_one if "wrapper" in change else perpendicular)
        patched, batch, *_ = StrengthSweep.execute(changed, _latent(), style, "0.3, 0.9").args
        for cell, strength in zip(_sample(patched, batch), (0.3, 0.9), strict=True):
            _assert_close(cell[None], _sample(_apply(changed, style, strength), _latent()))


def test_an_image_without_a_strength_is_refused_when_they_are_sampled_one_by_one(model: Any, style: str) -> None:
    patched, batch, *_ = StrengthSweep.execute(model, _latent(), style, "0.3, 0.9").args
    more = {**batch, "samples": batch["samples"].repeat(2, 1, 1, 1), "batch_index": [0] * 4}
    for sampler in ("euler", "lcm"):
        with pytest.raises(NotPerImage):
            _sample(patched, more, sampler=sampler)
    _assert_close(
        _sample(patched, batch, sampler="lcm")[:1], _sample(_apply(model, style, 0.3), _latent(), sampler="lcm")
    )
