"""Cuts the ranks of one adapter file: the merge of one file at strength 1, so everything is as exact there."""

import torch

from ..errors import BadSetting
from ..files.lora_file import LoraFile
from ..names.target_layer import ModelLayout
from .deltas.aligned_layers import ParameterOf
from .deltas.rank_limits import RankLimits
from .merging.merge_files import MergeOrder, merge_files
from .progress import Progress, no_progress
from .sources import Source
from .writing.new_adapter import NewAdapter


def resize(
    file: LoraFile,
    limits: RankLimits,
    layout: ModelLayout | None = None,
    *,
    size: int | None = None,
    dialect: str | None = None,
    dtype: torch.dtype | None = None,
    read: ParameterOf | None = None,
    progress: Progress = no_progress,
) -> NewAdapter:
    """The file with no more rank than the limits allow, each layer the nearest there is.

    Args:
        file: from open_lora.
        limits: for every layer.
        layout: the model it is for; None for the released model that fits best.
        size: bytes for the matrices of all layers, spent where they lower the file's error most; each has a rank of
            its own then.
        dialect: to write; None for the file's.
        dtype: to write; None for the file's.
        read: the model's parameters, for DoRA and other changes that depend on the weight.
        progress: is told of every layer.

    Raises: as merge_files.
    """
    if not limits.given and size is None:
        raise BadSetting("say how far to cut: a rank, an energy, an error, a ratio or a size")
    order = MergeOrder(method="svd", limits=limits, size=size, dialect=dialect, dtype=dtype, done="resized")
    return merge_files([Source(file)], order, layout, read=read, progress=progress)
