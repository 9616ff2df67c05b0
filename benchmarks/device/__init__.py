"""What LoRA Loom does on one device: is it right there, and what does it cost. `python -m benchmarks.device --help`."""
