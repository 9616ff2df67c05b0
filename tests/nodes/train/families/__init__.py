"""Tiny models of every family that the hosts can sample, as training sees them."""
