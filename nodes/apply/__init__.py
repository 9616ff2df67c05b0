"""The nodes that put adapters on a model: apply, stack, schedule, block strengths, sweep."""
