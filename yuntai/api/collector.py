"""Python's cycle collector, told what this process is like.

An answer of 100 instances is some 4,000 dictionaries that live for two milliseconds. With the defaults each such answer
has the collector look at everything six times, the long-lived records and modules too: half of the time of the answer,
and pauses of 30 to 130 ms at the 99th percentile. Nothing here makes cycles in number, so it may look seldom.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
YOUNG_PER_MIDDLE = 20
MIDDLE_PER_OLD = 50


def calm() -> None:
    """Collect, leave what is there now alone for good, and then look seldom. Call it when the caches are full."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PER_MIDDLE, MIDDLE_PER_OLD)
