"""``python -m yuntai.compute.guard``: says that this host lives, and keeps stale guests from doing anything.

It holds the host's lease in etcd (:class:`~yuntai.model.cluster.HostAlive`), answers other hosts' questions
(:mod:`yuntai.compute.witness`), and pauses guests that may run elsewhere by now (:mod:`yuntai.compute.standing`).
Paused guests are sorted out in this order: read whose they are and kill those that are another host's; announce that
this host lives, from which on nothing is taken from it; read again, and let those that are its own go on.

That only one writer and one owner of an address exist does not rest on this process: volumes are fenced by their
generation before a guest starts elsewhere, and its port is bound to the new host. This one makes it quick.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from yuntai import log, process, tls
from yuntai.compute.guests import GuestProcesses
from yuntai.compute.hostrecord import booted_utc
from yuntai.compute.standing import Standing, Watchman
from yuntai.compute.storage_probe import PERIOD_S, StorageProbe, Verdict
from yuntai.compute.witness import Prober, answering, witnesses_of
from yuntai.model.base import now_utc
from yuntai.model.cluster import HOST_LEASE_S, Host, HostAlive
from yuntai.model.compute import Instance
from yuntai.state import Deleted, EtcdStore, NotFound, Put, Reset, StateError

if TYPE_CHECKING:
    from yuntai.compute.guests import Guests
    from yuntai.config import Config
    from yuntai.state import Lease, Store

AGAIN_S = 0.5
VOUCH_EVERY_S = 0.5
VOUCHED_S = 4.0  # longer than a question may take
DOUBT_S = 2.0  # so long before its end an unrenewed lease makes the guard look for witnesses
RECHECK_S = 5.0
READS_AT_ONCE = 16
_LOG = log.get("compute.guard")


class Guard:
    """The guard of one host; :meth:`run` never returns."""

    def __init__(self, store: Store, config: Config, guests: Guests, prober: Prober) -> None:
        self._store = store
        self._config = config
        self._guests = guests
        self._prober = prober
        self._alive: dict[str, HostAlive] = {}
        self._peers = Path(config.run_dir) / "guard-hosts.json"
        self._lease: Lease | None = None
        self._check = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.standing = Standing()
        self._started_at = self.standing.clock()
        self.standing.lease_until = self._lease_until
        self.watchman = Watchman(self.standing, guests, self._noticed)

    def _noticed(self) -> None:
        self._loop.call_soon_threadsafe(self._check.set)

    def _lease_until(self) -> float:
        lease = self._lease
        # A guard that has just been started is given as long as the lease of the one before may have lasted.
        return self._started_at + HOST_LEASE_S if lease is None else lease.valid_until

    async def run(self) -> None:
        """Guard the host until cancelled. The lease is then left to end by itself: it is no fault to restart."""
        self._alive = self._remembered()
        self._judge_alone()
        self.watchman.start()
        try:
            async with answering(self._config, self._prober, self._address_of), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_hosts())
                tasks.create_task(self._seek_witnesses())
                tasks.create_task(self._watch_storage())
                tasks.create_task(self._live())
        finally:
            self.watchman.stop()

    # The lease, and what comes after a pause.

    async def _live(self) -> None:
        while True:
            try:
                await self._hold()
            except StateError as error:
                _LOG.warning("no lease now", error=str(error))
            await asyncio.sleep(AGAIN_S)

    async def _hold(self) -> None:
        async with self._store.lease(HOST_LEASE_S) as lease:
            try:
                await self.sort_out(resume=False)
                me, address = self._config.host, self._config.address
                await self._store.put(
                    HostAlive(id=me, address=address, since=now_utc(), booted=booted_utc()), lease=lease
                )
                self._lease = lease
                _LOG.info("this host lives", lease=f"{lease.id:x}")
                while not lease.lost.is_set():
                    await self._sort_out_held(lease)
                    await self._sleep_until_checked(lease)
            finally:
                lease.lost.set()  # nothing is revoked: whoever leads would take a restart of this process for a fault

    async def _sort_out_held(self, lease: Lease) -> None:
        """Sort out while the lease is certainly held: what is this host's own now can be taken by nobody."""
        try:
            await self.sort_out(resume=True, lease=lease)
        except StateError as error:
            _LOG.warning("whose the guests are cannot be read; paused ones stay paused", error=str(error))

    async def _sleep_until_checked(self, lease: Lease) -> None:
        waiting = [asyncio.ensure_future(lease.lost.wait()), asyncio.ensure_future(self._check.wait())]
        try:
            anything = self.standing.doubtful or any(self._guests.running().values())
            await asyncio.wait(waiting, timeout=RECHECK_S if anything else None, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
        self._check.clear()

    async def sort_out(self, *, resume: bool, lease: Lease | None = None) -> None:
        """Kill guests that are not this host's; with ``resume`` let its own go on, if the lease is held still.

        A guest without a record stays as it is: its agent ends it, and a store that lost its records kills nobody.
        """
        began = self.standing.clock()
        running = self._guests.running()
        if not self.standing.doubtful and not any(running.values()) and resume:
            return  # nothing was paused
        pauses, owners = self.standing.pauses, await self._owners(running)
        others = [guest for guest, hosts in owners.items() if hosts and self._config.host not in hosts]
        if others:
            self._guests.kill(others)
            took_ms = round((self.standing.clock() - began) * 1000, 1)
            _LOG.warning(
                "stale guests killed", instances={guest: owners[guest][0] for guest in others}, took_ms=took_ms
            )
        if not resume or (lease is not None and self.standing.clock() >= lease.valid_until):
            return
        if self.standing.pauses != pauses:
            return  # paused again meanwhile: once more from the beginning
        self.standing.doubtful = ""
        own = [guest for guest, hosts in owners.items() if self._config.host in hosts and running[guest]]
        if own:
            self._guests.resume(own)
            _LOG.info("guests go on", instances=own)

    async def _owners(self, guests: dict[str, bool]) -> dict[str, tuple[str, ...]]:
        """Return the hosts that each guest may run on; none where it has no record."""
        slots = asyncio.Semaphore(READS_AT_ONCE)

        async def owner(guest: str) -> tuple[str, ...]:
            async with slots:
                found = await self._store.get(Instance, guest)
            return tuple(h for h in (found.value.host, found.value.migrating_to) if h) if found is not None else ()

        return dict(zip(guests, await asyncio.gather(*(owner(guest) for guest in guests)), strict=True))

    # Other hosts.

    async def _address_of(self, host: str) -> str | None:
        known = self._alive.get(host)
        if known is not None:
            return known.address
        try:
            found = await self._store.get(Host, host)
        except StateError:
            return None
        return found.value.address if found is not None else None

    async def _follow_hosts(self) -> None:
        while True:
            try:
                async with aclosing(self._store.watch(HostAlive)) as events:
                    async for event in events:
                        self._hear(event)
            except StateError as error:
                _LOG.warning("the other hosts cannot be followed now", error=str(error))
            await asyncio.sleep(AGAIN_S)

    def _hear(self, event: Reset[HostAlive] | Put[HostAlive] | Deleted) -> None:
        match event:
            case Reset(records=records):
                self._alive = {one.value.id: one.value for one in records}
            case Put(record=record):
                self._alive[record.value.id] = record.value
            case Deleted(id=gone):
                self._alive.pop(gone, None)
        self._judge_alone()
        self._remember()

    def _judge_alone(self) -> None:
        self.standing.alone = not set(self._alive) - {self._config.host}

    def _remember(self) -> None:
        """Keep who else there is: a guard that starts while etcd is away must know."""
        try:
            self._peers.parent.mkdir(parents=True, exist_ok=True)
            new = self._peers.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(list(self._alive.values())))
            new.replace(self._peers)
        except OSError as error:
            _LOG.warning("the other hosts are not remembered", path=str(self._peers), error=str(error))

    def _remembered(self) -> dict[str, HostAlive]:
        try:
            return {one.id: one for one in msgspec.json.decode(self._peers.read_bytes(), type=list[HostAlive])}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            _LOG.warning("the other hosts are not known yet", path=str(self._peers), error=str(error))
            return {}

    async def _seek_witnesses(self) -> None:
        """While the lease is not renewed, find out whether others reach this host: then nobody calls it failed."""
        while True:
            await asyncio.sleep(VOUCH_EVERY_S)
            now = self.standing.clock()
            if self.standing.alone or now < self._lease_until() - DOUBT_S:
                continue
            asked = witnesses_of(self._config.host, self._alive.values())
            answers = await asyncio.gather(*(self._prober.ask(one, self._config.host) for one in asked))
            if any(answers):
                self.standing.vouched_until = now + VOUCHED_S

    # Storage.

    async def _watch_storage(self) -> None:
        context = tls.client_context(self._config.tls) if self._config.tls else None
        probe, verdict, reported = StorageProbe(self._store, self._config, self._prober, context), Verdict(), None
        while True:
            await asyncio.sleep(PERIOD_S)
            # Without guests it is of no use to look, unless it was dead: the host gets new ones once it is not.
            good = await probe.good() if reported or self._guests.running() else True
            dead = verdict.hear(self.standing.clock(), good=good)
            if dead == reported:
                continue
            try:
                await self._store.update(Host, self._config.host, partial(_storage, dead))
            except NotFound:
                continue  # the agent has not made the record yet
            except StateError as error:
                _LOG.warning("storage's state not reported", dead=dead, error=str(error))
            else:
                _LOG.warning("storage reported", dead=dead)
                reported = dead


def _storage(dead: bool, host: Host) -> Host:
    if dead == bool(host.storage_dead_since):
        return host
    return msgspec.structs.replace(host, storage_dead_since=now_utc() if dead else "")


async def serve(config: Config) -> None:
    """Guard until cancelled; guests run on after it."""
    async with EtcdStore(config.etcd) as store, Prober(config) as prober:
        await Guard(store, config, GuestProcesses(), prober).run()


if __name__ == "__main__":
    process.main("guard", serve, secrets=("cluster",))
