"""Layers that only some models of a family have: a file made for those says nothing to the others."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Absent:
    """Layers by their names, and why this model may be without them."""

    family: str  # as families.Family.name has it
    name: re.Pattern[str]
    reason: str


ABSENT = (
    Absent(
        "Wan",
        re.compile(r"[._](?:cross_attn[._](?:k|v|norm_k)_img|attn2[._](?:add_[kv]_proj|norm_added_k))$"),
        "reads the picture of an image-to-video model; this model takes none",
    ),
    Absent(
        "Wan",
        re.compile(r"(?:^|[._])(?:img_emb[._]proj[._]\d|image_embedder[._])"),
        "reads the picture of an image-to-video model; this model takes none",
    ),
    Absent("Wan", re.compile(r"(?:^|[._])vace_(?:blocks|patch_embedding)"), "of VACE, which this model is without"),
    Absent(
        "Wan",
        re.compile(r"(?:^|[._])(?:face_adapter|face_encoder|motion_encoder|pose_patch_embedding)"),
        "of Wan Animate, which this model is without",
    ),
    Absent(
        "", re.compile(r"(?:^|[._])text_projection$"), "the projection behind a text encoder, not there in this CLIP"
    ),
)


def why_absent(layer: str, family: str) -> str | None:
    """Why a model of this family may lack a layer that is named so; None if that is no reason."""
    found = (one for one in ABSENT if one.family in ("", family) and one.name.search(layer))
    return next((one.reason for one in found), None)
