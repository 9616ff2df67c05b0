"""The names under which this project keeps what it must know again in the metadata of files."""

HISTORY = "lora_loom.made_by"  # metadata: how the file came about
CONFIG_MARK = "lora_loom.adapter_config"  # the adapter_config.json that a file had beside it
# How alpha was stored before it went into a configuration: {"most": dtype, "others": {layer: dtype}}, or NO_ALPHA.
ALPHA_MARK = "lora_loom.alpha"
STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")  # hashes of the tensors as they were
