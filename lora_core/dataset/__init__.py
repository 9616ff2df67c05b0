"""Pictures with captions, made ready for training."""

from .sample import TrainingSet, TrainSample

__all__ = ["TrainSample", "TrainingSet"]
