"""The node "Train LoRA": pictures in, a LoRA out that can be applied at once."""

from typing import Any

import torch
from comfy_api.latest import io

from ...lora_core.errors import BadTraining
from ...lora_core.training import TrainSettings
from ...lora_core.training.dataset import TrainingSet, prompts_to_keep
from ...lora_core.training.settings import TARGETS, settings_of
from ..comfy_bridge import PreviewOrder
from ..sockets.socket_types import CATEGORY, Lora, LoraDataset, LoraTrainSettings
from .loss_chart import draw_training
from .training_files import newest_state
from .training_run import Trained, TrainingRun, TrainOrder

PREVIEWS_AT_MOST = 2  # captions that are sampled where no prompt is given
NAMED = TrainSettings()


class TrainLora(io.ComfyNode):
    """Thin: sockets in, training_run.TrainingRun, sockets out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomTrain",
            display_name="Train LoRA",
            category=CATEGORY,
            description="Trains a LoRA on the model that is in the graph, which stays as it is. Shows the loss, a "
            "validation on fixed questions and pictures while it runs; can be stopped at any step, and what was "
            "trained is kept.",
            inputs=[*_main_inputs(), *_watching_inputs()],
            outputs=[
                Lora.Output("lora", display_name="LORA", tooltip="What was trained, for Apply LoRA, Save or Merge."),
                io.Image.Output("loss_curve", display_name="loss_curve", tooltip="Validation and loss as a chart."),
                io.Image.Output("previews", display_name="previews", tooltip="The previews, in the order of steps."),
                io.String.Output("report", display_name="report", tooltip="How it went."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, filename: str | None = None, **_: Any) -> Any:
        """Run again to go on where a cancelled run of this name stopped."""
        return newest_state(filename or cls.__name__)

    @classmethod
    def execute(
        cls,
        model: Any,
        dataset: TrainingSet,
        steps: int,
        batch: int,
        rank: int,
        learning_rate: float,
        targets: str,
        seed: int,
        filename: str,
        preview_every: int,
        preview_prompts: str,
        keep_prompts: str = "",
        settings: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Train, and hand everything on."""
        rate = learning_rate or None
        asked = {"steps": steps, "batch": batch, "rank": rank, "learning_rate": rate, "targets": targets, "seed": seed}
        others = dict(settings or {})
        preview = PreviewOrder(
            steps=others.pop("preview_steps", PreviewOrder().steps),
            cfg=others.pop("preview_cfg", PreviewOrder().cfg),
            seed=others.pop("preview_seed", PreviewOrder().seed),
        )
        if not dataset.samples:
            raise BadTraining(["there are no pictures to learn from"])
        order = TrainOrder(
            settings=settings_of({**others, **asked}),
            name=filename or cls.__name__,
            writes=bool(filename),
            preview_every=preview_every,
            prompts=_lines(preview_prompts) or _captions(dataset)[:PREVIEWS_AT_MOST],
            keep=prompts_to_keep(_lines(keep_prompts), _captions(dataset), dataset.trigger),
            preview=preview,
        )
        return _outputs(TrainingRun(str(cls.hidden.unique_id or ""), model, clip, dataset, order).run())


def _main_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model to train on. It is frozen, and not copied."),
        LoraDataset.Input("dataset", tooltip="The pictures, from Training Pictures."),
        io.Int.Input(
            "steps", default=NAMED.steps, min=1, max=1_000_000,
            tooltip="Steps of the optimiser. 100 to 300 are enough for most styles and subjects.",
        ),
        io.Int.Input(
            "batch", default=NAMED.batch, min=1, max=1024,
            tooltip="Pictures per step. More make a step slower and steadier.",
        ),
        io.Int.Input(
            "rank", default=NAMED.rank, min=1, max=4096,
            tooltip="Columns of each pair of matrices: how much the LoRA can hold. Usual: 8 to 32.",
        ),
        io.Float.Input(
            "learning_rate", default=0.0, min=0.0, max=1.0, step=0.00001, round=False,
            tooltip="Step width at its highest, no unit. 0: chosen by the number of steps "
            "(0.001 up to 100, 0.0005 up to 300, 0.0002 up to 1000, then 0.0001).",
        ),
        io.Combo.Input(
            "targets", options=list(TARGETS), default=NAMED.targets,
            tooltip="Layers of the model that are trained: attention (to_q, to_k, to_v, to_out), also the "
            "feed-forward layers, or all. More layers learn more, and forget more.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**63 - 1,
            tooltip="Decides the first state, the order, the noise and the timesteps. The same seed gives the "
            "same file on the same machine.",
        ),
    ]  # fmt: skip


def _watching_inputs() -> list[Any]:
    return [
        io.String.Input(
            "filename", default="trained",
            tooltip="Name of the file in the loras folder; a number is added if it is taken. Empty: only "
            "the LORA output, unless the run is cancelled.",
        ),
        io.Int.Input(
            "preview_every", default=50, min=0, max=1_000_000,
            tooltip="Steps between two previews; 0 makes none. Each takes a few seconds.",
        ),
        io.String.Input(
            "preview_prompts", default="", multiline=True,
            tooltip="What the previews show, one prompt per line. Empty: the first two captions.",
        ),
        io.String.Input(
            "keep_prompts", default="", multiline=True, optional=True,
            tooltip="Prompts whose pictures should stay as they are, one per line. The model makes a picture "
            "of each before it is trained, and learns to go on making it; also of the empty prompt, which CFG "
            "compares with. <captions>: every caption without its trigger.",
        ),
        LoraTrainSettings.Input(
            "settings", optional=True, tooltip="Everything else, from Train LoRA Settings."
        ),
        io.Clip.Input(
            "clip", optional=True,
            tooltip="With it connected, its text encoders are trained too. Connect the one that made the dataset. "
            "Without it, the LoRA is of the model alone.",
        ),
    ]  # fmt: skip


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _captions(dataset: TrainingSet) -> list[str]:
    return list(dict.fromkeys(sample.caption for sample in dataset.samples))


def _outputs(trained: Trained) -> io.NodeOutput:
    steps = trained.losses[-1][0] if trained.losses else 0
    chart = draw_training(trained.losses, trained.validation, steps)
    previews = torch.cat(list(trained.previews)) if trained.previews else chart
    return io.NodeOutput(trained.lora, chart, previews, trained.report, ui={"text": [trained.report]})


NODES: list[type[io.ComfyNode]] = [TrainLora]
