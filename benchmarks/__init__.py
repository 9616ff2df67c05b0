"""Benchmarks against the host's own nodes and against peers; each is `python -m benchmarks.NAME --json OUT.json`."""
