"""Trains low-rank adapters on a frozen model, step by step."""

from .denoiser import Denoiser, Memory
from .settings import TrainSettings
from .trainer import StepReport, Trainer

__all__ = ["Denoiser", "Memory", "StepReport", "TrainSettings", "Trainer"]
