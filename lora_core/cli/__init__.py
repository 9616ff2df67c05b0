"""The commands of `python -m lora_core`, a few to a file; each file adds its own to the parser."""
