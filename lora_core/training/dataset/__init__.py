"""Pictures with captions, made ready for training."""

from .caching import EncodedCache, MemoryCache
from .captions import prompts_to_keep
from .folder import find_pictures, folder_fingerprint
from .pictures import picture_of_tensor, read_picture
from .preparing import Encoders, GivenPicture, PictureSettings, Prepared, prepare
from .sample import TrainingSet, TrainSample

__all__ = [
    "EncodedCache",
    "Encoders",
    "GivenPicture",
    "MemoryCache",
    "PictureSettings",
    "Prepared",
    "TrainSample",
    "TrainingSet",
    "find_pictures",
    "folder_fingerprint",
    "picture_of_tensor",
    "prepare",
    "prompts_to_keep",
    "read_picture",
]
