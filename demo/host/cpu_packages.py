"""Lets ComfyUI start on a CPU-only torch: fills the two gaps its media packages leave there.

torchvision and torchaudio are published for CUDA builds only. torchvision imports on a CPU build once its two
missing operators are declared; torchaudio is replaced by an empty module, which only audio nodes would use.
"""

import importlib.machinery
import importlib.util
import sys
import types

_KEPT: list[object] = []  # torch drops the declared operators with the Library object

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def prepare() -> None:
    """Make `import torchvision` and `import torchaudio` succeed. Does nothing where the real ones work."""
    import torch

    if "+cpu" not in torch.__version__ or _KEPT:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(operator + _SIGNATURE)
    _KEPT.append(library)
    if importlib.util.find_spec("torchaudio") is None:
        sys.modules["torchaudio"] = _empty_torchaudio()


def _empty_torchaudio() -> types.ModuleType:
    module = types.ModuleType("torchaudio")
    module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    module.__path__ = []
    for name in ("functional", "transforms"):
        child = types.ModuleType(f"torchaudio.{name}")
        child.__spec__ = importlib.machinery.ModuleSpec(child.__name__, None)
        setattr(module, name, child)
        sys.modules[child.__name__] = child
    return module
