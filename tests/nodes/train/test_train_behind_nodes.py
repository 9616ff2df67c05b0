"""Training behind every node of the host that changes a model: it trains, or says in one line why not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lora_pack.lora_core.errors import LoraError
from lora_pack.lora_core.training import Trainer, TrainSettings
from lora_pack.nodes.comfy_bridge import HostDenoiser, model_names
from lora_pack.nodes.train.train_lora import TrainLora

from ..host_nodes import MODEL, nodes_that_take, output_of

SIDE = 64  # pixels
IN_PLACE = {"FreeU", "FreeU_V2"}  # change activations that a step of training needs


def _sample(model: Any, cond: Any) -> None:
    """A step of the host's own sampler."""
    import comfy.sample

    latent = torch.zeros(1, 12, 8, 8)
    comfy.sample.sample(model, latent, 1, 2.0, "euler", "simple", cond, cond, latent, disable_pbar=True, seed=1)


@pytest.mark.filterwarnings("ignore")  # the nodes' own
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_every_node_that_changes_a_model_can_stand_before_a_training(
    demo: tuple[Any, Any, Any], encoded: Any, loras_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests, checkpointing: str,
) -> None:  # fmt: skip
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(TrainLora, "hidden", SimpleNamespace(unique_id="7"))
    data = encoded(2, SIDE)
    trained: set[str] = set()
    for name in nodes_that_take(MODEL) if checkpointing == "off" else sorted(IN_PLACE):
        with subtests.test(name):
            try:
                changed = output_of(name, MODEL, {MODEL: demo[0], "CLIP": demo[1]})
                _sample(changed, data.samples[0].conditioning)
            except Exception:
                continue  # does not take this model with its defaults, or is for another kind of model
            settings = {"checkpointing": checkpointing, "validate_every": 0, "save_every": 0, "preview_steps": 1}
            try:
                with torch.inference_mode():
                    report = TrainLora.execute(
                        model=changed, dataset=data, steps=1, batch=2, rank=4, learning_rate=0.01,
                        targets="attention", seed=1, filename=f"behind {name} {checkpointing}", preview_every=0,
                        preview_prompts="", settings=settings,
                    ).args[-1]  # fmt: skip
            except LoraError as refused:
                assert "\n" not in str(refused)
                continue
            assert "nan" not in report
            trained.add(name)
    assert trained >= IN_PLACE


def test_the_gradient_behind_a_change_in_place_is_that_of_the_same_change_made_beside(
    demo: tuple[Any, Any, Any], encoded: Any
) -> None:
    """Two patches that mean the same; a gradient needs the values from before the change."""

    def in_place(h: torch.Tensor, hsp: torch.Tensor, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        h[:, ::2] = h[:, ::2] * h.mean(1, keepdim=True)
        return h, hsp

    def beside(h: torch.Tensor, hsp: torch.Tensor, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        even = torch.arange(h.shape[1]).remainder(2).eq(0).reshape(1, -1, 1, 1)
        return torch.where(even, h * h.mean(1, keepdim=True), h), hsp

    found: list[list[float]] = []
    for patch in (in_place, beside):
        model = demo[0].clone()
        model.set_model_output_block_patch(patch)
        names = model_names(model, None)
        settings = TrainSettings(steps=3, batch=2, rank=4, learning_rate=0.01, seed=1)
        trainer = Trainer(HostDenoiser(model, names), encoded(2, SIDE).samples, settings)
        found.append([report.loss for report in trainer.run() if report.loss is not None])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
