"""Names of q, k, v projections that a trainer fused into one layer and the model keeps apart."""

from collections.abc import Iterable, Mapping, Sequence

from .place import Name, Shape

# Last segments of split layers, in the order of their rows -> the fused layer's. As in diffusers 0.42.1
# Attention.fuse_projections, and ComfyUI 0.29 krea2_to_diffusers.
FUSED: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (
    (("to_q", "to_k", "to_v"), ("to_qkv",)),
    (("to_k", "to_v"), ("to_kv",)),
    (("add_q_proj", "add_k_proj", "add_v_proj"), ("to_added_qkv", "add_qkv_proj")),
    (("add_k_proj", "add_v_proj"), ("to_added_kv",)),
    (("q_proj", "k_proj", "v_proj"), ("qkv_proj", "qkv")),
    (("wq", "wk", "wv"), ("to_qkv", "qkv")),
    (("q", "k", "v"), ("qkv",)),
)
FIRST = {members[0]: (members, fused) for members, fused in FUSED}


def fused_names(known: Mapping[str, Name], shapes: Mapping[str, Shape]) -> Iterable[Name]:
    """The names of fused layers, one Name for each layer that a fused one is made of.

    Args:
        known: dotted name -> what it stands for; own paths and other names alike.
        shapes: path inside the part -> weight shape.

    Example: attn1.to_q, attn1.to_k, attn1.to_v -> attn1.to_qkv, three times, each with its own source rows
    """
    for name in known:
        head, dot, last = name.rpartition(".")
        if last not in FIRST:
            continue
        members, fused = FIRST[last]
        group = [known[member] for member in (head + dot + member for member in members) if member in known]
        inputs = {shapes[member.inner][1:] for member in group}
        if len(group) < len(members) or len(inputs) > 1 or any(member.swap_halves for member in group):
            continue
        for other in fused:
            if head + dot + other not in known:
                yield from _spread(head + dot + other, group, shapes)


def _spread(name: str, group: Sequence[Name], shapes: Mapping[str, Shape]) -> Iterable[Name]:
    start = 0
    for member in group:
        rows = member.rows or (0, shapes[member.inner][0])
        stop = start + rows[1] - rows[0]
        yield Name(name, member.inner, member.rows, source_rows=(start, stop))
        start = stop
