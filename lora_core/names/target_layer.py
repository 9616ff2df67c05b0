"""The adaptable layers of a model, listed from the names and shapes of its state dict."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .families import Family, recognise

UNET = "unet"
Rows = tuple[int, int]  # [start, stop) of a layer's output rows

# Prefixes that hosts and checkpoint files put before the paths of a part, longest first. "" stands for a bare denoiser.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
TEXT_ENCODER = re.compile(r"^(?P<prefix>(?:text_encoders\.)?(?P<name>\w+)\.transformer\.)(?P<inner>.+)$")
CHECKPOINT_TEXT_ENCODERS: Mapping[str, str] = {
    "cond_stage_model.transformer.": "clip_l",
    "conditioner.embedders.0.transformer.": "clip_l",
}


WEIGHT_ENDS = (".weight", ".scale")  # what a layer's weight is called; the norms of Flux in ComfyUI 0.3 have a "scale"
BIAS_END = ".bias"
# Beside a quantised weight, and of no use to an adapter.
QUANTISATION = re.compile(
    r"(?:^|\.)(?:scale_weight|scale_input|scaled_fp8|comfy_quant|(?:weight|input)_scale(?:_\d)?)$"
)


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """One layer that an adapter can change.

    `path` is its full name in the host's model without ".weight", `inner` the same without the part's prefix,
    `shape` the weight's [out, in, *kernel] (or [width] of a norm layer). A parameter that is no layer's weight, such
    as Wan's "blocks.0.modulation", is a layer of its own with the whole name as its path.
    """

    path: str
    part: str  # "unet", or a text encoder's name: "clip_l", "clip_g", "t5xxl", ...
    inner: str
    shape: tuple[int, ...]
    has_bias: bool
    weight_end: str = ".weight"  # path + weight_end is the weight's name in the model

    @property
    def weight_name(self) -> str:
        """The weight's name in the host's model."""
        return self.path + self.weight_end

    @property
    def is_matrix(self) -> bool:
        """Whether it is the weight of a linear layer, an embedding or a convolution: what has down and up factors."""
        return len(self.shape) > 1 and bool(self.weight_end)

    @property
    def whole_role(self) -> str:
        """The role under which a file stores a change of the weight whole."""
        return "diff" if self.weight_end else "diff_m"

    @property
    def all_rows(self) -> tuple[int, int]:
        """[start, stop) of all its output rows; none for a single number."""
        return 0, self.shape[0] if self.shape else 0

    @property
    def bias_name(self) -> str:
        """The bias's name in the host's model, where there is one."""
        return self.path + BIAS_END


@dataclass(frozen=True, slots=True, eq=False)
class ModelLayout:
    """Every adaptable layer of a model (and of its text encoders, where they are at hand), by path."""

    targets: Mapping[str, TargetLayer]
    family: Family

    @property
    def parts(self) -> frozenset[str]:
        """The parts at hand, such as {"unet", "clip_l"}."""
        return frozenset(target.part for target in self.targets.values())


def list_targets(shapes: Mapping[str, tuple[int, ...]]) -> ModelLayout:
    """List the layers of a state dict.

    Args:
        shapes: state-dict name -> shape. Names as the host has them ("diffusion_model.", "clip_l.transformer."),
            as checkpoints have them ("model.diffusion_model."), or a denoiser's bare names.
    """
    bare = not any(name.startswith(UNET_PREFIXES[:-1]) or _text_encoder(name) for name in shapes)
    targets: dict[str, TargetLayer] = {}
    for name, shape in shapes.items():
        end = next((end for end in WEIGHT_ENDS if name.endswith(end)), "")
        if not end and ((name.endswith(BIAS_END) and _has_weight(name, shapes)) or QUANTISATION.search(name)):
            continue
        path = name.removesuffix(end)
        place = _place(path, bare=bare)
        if place is not None:
            part, inner = place
            targets[path] = TargetLayer(path, part, inner, tuple(shape), f"{path}.bias" in shapes, end)
    unet = {t.inner: (t.shape[0], t.shape[1]) for t in targets.values() if t.part == UNET and len(t.shape) > 1}
    return ModelLayout(targets, recognise(unet))


def _has_weight(bias: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return any(bias.removesuffix(BIAS_END) + end in shapes for end in WEIGHT_ENDS)


def _text_encoder(path: str) -> tuple[str, str] | None:
    for prefix, part in CHECKPOINT_TEXT_ENCODERS.items():
        if path.startswith(prefix):
            return part, path.removeprefix(prefix)
    found = TEXT_ENCODER.match(path)
    return (found["name"], found["inner"]) if found else None


def _place(path: str, *, bare: bool) -> tuple[str, str] | None:
    """(part, path inside it) of a state-dict name; None for what belongs to no part, such as a VAE."""
    if bare:
        return UNET, path
    for prefix in UNET_PREFIXES[:-1]:
        if path.startswith(prefix):
            return UNET, path.removeprefix(prefix)
    return _text_encoder(path)
