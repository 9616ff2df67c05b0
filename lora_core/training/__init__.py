"""Trains low-rank adapters on a frozen model, step by step."""

from .denoiser import Denoiser, Memory
from .settings import TrainSettings
from .step_report import StepReport
from .trainer import Trainer

__all__ = ["Denoiser", "Memory", "StepReport", "TrainSettings", "Trainer"]
