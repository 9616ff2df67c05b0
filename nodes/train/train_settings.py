"""The node "Train LoRA Settings": everything about a training that most people leave as it is."""

from typing import Any

from comfy_api.latest import io

from ...lora_core.training import TrainSettings
from ...lora_core.training.settings import choices_of
from ..comfy_bridge import PreviewOrder
from ..sockets.socket_types import CATEGORY, LoraTrainSettings

DEFAULT, PREVIEW = TrainSettings(), PreviewOrder()


class TrainLoraSettings(io.ComfyNode):
    """Thin: widgets in, names and values out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as the host shows it."""
        return io.Schema(
            node_id="LoraLoomTrainSettings",
            display_name="Train LoRA Settings",
            category=CATEGORY,
            description="The settings of Train LoRA that most people leave as they are.",
            inputs=[*_adapter_inputs(), *_learning_inputs(), *_watching_inputs()],
            outputs=[LoraTrainSettings.Output("settings", display_name="settings", tooltip="For Train LoRA.")],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """The values; an alpha of 0 stands for that of the rank."""
        return io.NodeOutput(values | {"alpha": values["alpha"] or None})


def _adapter_inputs() -> list[Any]:
    return [
        _choice("algorithm", "lora: linear layers. locon: also the convolutions."),
        _number("alpha", 0.0, 0.0, 4096.0, 0.5, "The file's alpha, no unit; scale is alpha / rank. 0: as the rank."),
        _choice("init", "Draw of the down matrix; the up matrix begins at 0, so the model begins as it is."),
    ]


def _learning_inputs() -> list[Any]:
    return [
        _choice("optimiser", "How a gradient becomes a step."),
        _choice("schedule", "How the learning rate falls after warming up."),
        _number("warmup", DEFAULT.warmup, 0.0, 1.0, 0.01, "Share of the steps in which the rate rises, 0 to 1."),
        _number("clip", DEFAULT.clip, 0.0, 1000.0, 0.1, "Largest norm of the gradient, no unit; 0: not limited."),
        _choice("weighting", "min-snr: no noise level outweighs the others (eps and v models)."),
        _choice("timesteps", "Which noise levels are seen how often. auto: uniform, logit-normal for flow models."),
        _number("caption_dropout", 0.0, 0.0, 1.0, 0.01, "Share of the pictures seen without their caption, 0 to 1."),
        _choice(
            "checkpointing",
            "Compute activations twice instead of keeping them: slower, less memory. auto: only where they "
            "would not fit; the report says so.",
        ),
    ]


def _watching_inputs() -> list[Any]:
    return [
        _count("validate_every", DEFAULT.validate_every, "Steps between two validations; 0: only before and after."),
        _count("save_every", DEFAULT.save_every, "Steps between two saved states; 0: only when the run is cancelled."),
        _count("preview_steps", PREVIEW.steps, "Sampler steps of a preview."),
        _number("preview_cfg", PREVIEW.cfg, 0.0, 100.0, 0.1, "CFG of the previews, no unit; 1 for distilled models."),
        _count("preview_seed", PREVIEW.seed, "Seed of the first preview; it is the same at every step."),
        io.Float.Input(
            "text_encoder_lr", default=DEFAULT.text_encoder_lr, min=0.0, max=100.0, step=0.05, optional=True,
            tooltip="Learning rate of the text encoders as a share of learning_rate, no unit; read where clip is "
            "connected to Train LoRA.",
        ),
    ]  # fmt: skip


def _choice(name: str, tooltip: str) -> Any:
    return io.Combo.Input(name, options=list(choices_of(name)), default=str(getattr(DEFAULT, name)), tooltip=tooltip)


def _number(name: str, default: float, low: float, high: float, step: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip)


def _count(name: str, default: int, tooltip: str) -> Any:
    return io.Int.Input(name, default=default, min=0, max=1_000_000, tooltip=tooltip)


NODES: list[type[io.ComfyNode]] = [TrainLoraSettings]
