"""How each dialect is written: what stands before and behind a layer's name, and whose names it takes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..families import Family
from .dialect import DOTS, UNDERSCORES
from .lycoris import HADA, LOKR
from .peft import WRAPPER

CLIP_LEVEL = "text_model."
OWN, DIFFUSERS = "the host's names", "diffusers' names"
STABLE_DIFFUSION_1 = frozenset({"SD1.5", "SD2"})  # families whose kohya files have diffusers' names

LYCORIS_PARAMETERS: Mapping[str, str] = {
    "alpha": ".alpha",
    "magnitude": ".dora_scale",
    "diff": ".diff",
    "diff_m": ".diff_m",
    "diff_bias": ".diff_b",
    "set_weight": ".set_weight",
    "norm": ".w_norm",
    "norm_bias": ".b_norm",
    "oft_blocks": ".oft_blocks",
    "oft_diag": ".oft_diag",
    "rescale": ".rescale",
    "on_input": ".on_input",
    "ia3_weight": ".weight",
    **{name: f".{name}" for name in (*HADA, *LOKR)},
    **{name: f".{name}.weight" for name in ("a1", "a2", "b1", "b2", "bm")},
}
KOHYA_PARAMETERS: Mapping[str, str] = {
    "down": ".lora_down.weight",
    "up": ".lora_up.weight",
    "mid": ".lora_mid.weight",
    **LYCORIS_PARAMETERS,
}
PEFT_PARAMETERS: Mapping[str, str] = {
    "down": ".lora_A.weight",
    "up": ".lora_B.weight",
    "up_bias": ".lora_B.bias",
    "magnitude": ".lora_magnitude_vector",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """One dialect as it is written.

    `configured` dialects keep alpha in a LoraConfig (a file beside, or the header), not in tensors.
    """

    name: str
    joined: str
    parameters: Mapping[str, str]  # role -> what stands behind the layer's name
    configured: bool = False

    def names_from(self, family: Family, part: str) -> str:
        """Whose names it takes for a part of a family's model: OWN or DIFFUSERS."""
        if self.name == "kohya":
            return DIFFUSERS if part == "unet" and family.name in STABLE_DIFFUSION_1 else OWN
        return OWN if self.name == "comfy" else DIFFUSERS

    def prefix(self, family: Family, part: str, parts: Collection[str], *, alone: bool = False) -> str:
        """What it writes before the layers of a part.

        Args:
            family: of the model.
            part: "unet" or a text encoder's name.
            parts: all parts of the model.
            alone: whether the file holds no other part.
        """
        if self.name == "comfy":
            return "diffusion_model." if part == "unet" else f"text_encoders.{part}.transformer."
        if self.name == "kohya":
            encoders = KOHYA_ENCODERS.get(family.name, KOHYA_ENCODERS[""])
            return "lora_unet_" if part == "unet" else encoders.get(part, "lora_te_")
        pipeline = _pipeline_part(family, part, parts)
        if self.name == "diffusers":
            return pipeline
        return WRAPPER if part == "unet" or (alone and pipeline == "text_encoder.") else WRAPPER + pipeline

    def in_configuration(self, prefix: str, name: str) -> tuple[str, str]:
        """(part, name) of a layer in a LoraConfig, which PEFT writes for one model and diffusers for each part.

        Without the level that transformers dropped from CLIP, so that the name is the end of both paths.
        """
        if name.startswith(CLIP_LEVEL):
            return (prefix if self.name == "diffusers" else ""), name.removeprefix(CLIP_LEVEL)
        return (prefix, name) if self.name == "diffusers" else ("", prefix.removeprefix(WRAPPER) + name)


def _pipeline_part(family: Family, part: str, parts: Collection[str]) -> str:
    """What diffusers' pipeline of a family calls a part: its text encoders are numbered in the order of ENCODERS."""
    if part == "unet":
        return "unet." if family.is_stable_diffusion else "transformer."
    if family.name == "the SDXL refiner":
        return "text_encoder_2."  # it has the second of SDXL's alone
    order = sorted(
        set(parts) - {"unet"}, key=lambda name: (ENCODERS.index(name) if name in ENCODERS else len(ENCODERS), name)
    )
    number = order.index(part)
    return f"text_encoder_{number + 1}." if number else "text_encoder."


ENCODERS = ("llama", "clip_l", "clip_h", "clip_g")  # then all others; diffusers 0.42.1 pipelines
# family ("" for every other) -> text encoder -> prefix. sd-scripts 48d368fa networks/lora*.py.
KOHYA_ENCODERS: Mapping[str, Mapping[str, str]] = {
    "SD1.5": {},
    "SD2": {},
    "": {"clip_l": "lora_te1_", "clip_g": "lora_te2_", "t5xxl": "lora_te3_"},
    "HunyuanVideo": {"llama": "lora_te1_", "clip_l": "lora_te2_"},
}
SPELLINGS: Mapping[str, Spelling] = {
    spelling.name: spelling
    for spelling in (
        Spelling(name="kohya", joined=UNDERSCORES, parameters=KOHYA_PARAMETERS),
        Spelling(
            name="comfy", joined=DOTS, parameters={**KOHYA_PARAMETERS, "down": ".lora_A.weight", "up": ".lora_B.weight"}
        ),
        Spelling(name="diffusers", joined=DOTS, parameters=PEFT_PARAMETERS, configured=True),
        Spelling(name="peft", joined=DOTS, parameters=PEFT_PARAMETERS, configured=True),
    )
}
