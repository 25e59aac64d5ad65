"""Who is where, kept up to date in the API's process by the watches that feed its caches."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from yuntai.control.placer import KINDS, Placer, stand

if TYPE_CHECKING:
    from yuntai.api.cache import CachedStore


def keep_fleet(cached: CachedStore) -> None:
    """Let questions whether something fits be answered without reading everything; call it before the caches start."""
    placer = Placer(cached.inner)
    for kind in KINDS:
        cached.caches[kind].listeners.append(functools.partial(placer.feed, kind))
    for view in (cached, cached.writer()):
        stand(view, placer)
