"""Deltas kept as factors, and what is computed on them without building the dense matrix."""
