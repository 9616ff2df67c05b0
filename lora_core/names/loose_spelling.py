"""What is left of a name without what trainers write differently: wrappers' marks, separators, capitals."""

import re

# What torch's wrappers put into paths: torch.compile, FSDP, activation checkpointing, DistributedDataParallel.
WRAPPERS = re.compile(
    r"(?:(?<=[._])|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:[._]|$)|(?:(?<=\.)|^)module\."
)
CUT = re.compile(r"(?:(?<=[._])|^)sformer_blocks(?=[._])")  # of "transformer_blocks", cut off with a prefix
RUNS = re.compile(r"[a-z]+|[0-9]+")


def without_wrappers(name: str) -> str:
    """Example: lora_unet__orig_mod_blocks_0 -> lora_unet_blocks_0, module.blocks.0 -> blocks.0"""
    return CUT.sub("transformer_blocks", WRAPPERS.sub("", name))


def letters_and_numbers(name: str) -> str:
    """A name as its runs of letters and its numbers, each number apart; empty for a name with letters of no trainer.

    Example: blocks_22.self_attn.k -> blocks|22|selfattnk
    """
    if not name.isascii():
        return ""
    return "".join(f"|{run}|" if run.isdigit() else run for run in RUNS.findall(name.lower()))
