"""May this host's guests run on? Decided without asking anybody, by a thread that a busy or stuck loop cannot hold up.

The host is called failed, and its guests started elsewhere, only when its lease has ended *and* no witness reaches it.
So guests are paused in two cases: the whole host stood still for a while (nobody here knows what happened meanwhile),
or the lease may have ended and no witness has lately said that it reaches this host. They run again only after the
records were read (:mod:`yuntai.compute.guard`). Where there is no other host nobody can take a guest over.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from yuntai import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.compute.guests import Guests

TICK_S = 0.2
GAP_S = 2.0  # well below the lease: a shorter stop cannot have cost it
_LOG = log.get("compute.guard")


class Standing:
    """What the guard's loop knows, for its thread to read. Each field is set by the loop alone, as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.alone = True  # there is no other host that could take guests over
        self.lease_until: Callable[[], float] = lambda: 0.0
        self.vouched_until = 0.0
        self.doubtful = ""  # why guests were paused; "" once the records have been read after it
        self.pauses = 0  # how often the thread found that they must not run

    def covered(self, now: float) -> bool:
        """Tell whether nobody can have called this host failed."""
        return self.alone or now < self.lease_until() or now < self.vouched_until

    def why_pause(self, before: float, now: float) -> str:
        """Return why the guests must not run now, "" if they may; ``before`` is when this was asked last."""
        if self.alone:
            return ""
        if now - before > GAP_S:
            return f"this host stood still for {now - before:.1f} s"
        if not self.covered(now):
            return "the host's lease may have ended, and no witness reaches it"
        return ""


class Watchman:
    """The thread. ``noticed`` is called in it after guests were paused."""

    def __init__(self, standing: Standing, guests: Guests, noticed: Callable[[], None]) -> None:
        self._standing = standing
        self._guests = guests
        self._noticed = noticed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchman", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = self._standing.clock()
        while not self._stop.wait(TICK_S):
            now = self._standing.clock()
            self.look(before, now)
            before = now

    def look(self, before: float, now: float) -> None:
        """Pause what runs, if it must not. Pausing comes before anything that could take time, even a line of log."""
        why = self._standing.why_pause(before, now)
        if not why:
            return
        running = [guest for guest, stopped in self._guests.running().items() if not stopped]
        self._guests.pause(running)
        news = not self._standing.doubtful
        self._standing.doubtful = why
        self._standing.pauses += 1
        if running or news:
            took_ms = round((self._standing.clock() - now) * 1000, 1)
            _LOG.warning("guests paused", why=why, instances=running, took_ms=took_ms)
        self._noticed()
