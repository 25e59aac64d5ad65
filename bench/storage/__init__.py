"""Figures of the block store alone, beside its peers: ``python -m bench.storage``, or ``make bench-storage``."""
