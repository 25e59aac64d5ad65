"""Benchmarks: our figures beside peers' and physical limits, taken in the same minutes on the same machine."""
