"""What callers ask of volumes. Every operation can be asked again after any failure and goes on where it stood."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.model.base import ago_utc, new_id, now_utc
from yuntai.model.cluster import ClientToken, Volume
from yuntai.pangu import layout, placement, rules, wire
from yuntai.pangu.errors import Conflict, InUse, Invalid, NoPlacement, NotFound, Unavailable
from yuntai.pangu.requests import Attached, CreateVolume, nbd_uri
from yuntai.pangu.units import check_size, chunk_count, is_hydrated, volume_number
from yuntai.state import Absent, Present

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.pangu.garbage import Garbage
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers
    from yuntai.pangu.serving import Serving
    from yuntai.state import Versioned

WRITE_ATTEMPTS = 8
GATEWAY_TIMEOUT_S = 10.0

_log = log.get("volumes")


class Volumes:
    """Operations of the HTTP API on volumes."""

    def __init__(
        self, office: Office, servers: Servers, gateways: Gateways, serving: Serving, garbage: Garbage
    ) -> None:
        self._office = office
        self._servers = servers
        self._gateways = gateways
        self._serving = serving
        self._garbage = garbage

    async def list(self) -> Sequence[Versioned[Volume]]:
        """Return every volume."""
        return await self._office.store.list(Volume)

    async def create(self, wanted: CreateVolume) -> Volume:
        """Create a volume, blank or on a source; the one that an earlier try made, if there is one."""
        check_size(wanted.size_bytes)
        token = await self._token(wanted)
        volume_id = wanted.id or (str(token.response["volume"]) if token else new_id("vol"))
        volume_number(volume_id)
        async with self._office.lineage, self._office.lock(volume_id):
            for _ in range(WRITE_ATTEMPTS):
                found = await self._office.store.get(Volume, volume_id)
                if found is not None:
                    return _same(found.value, wanted)
                made = await self._try_create(volume_id, wanted, token)
                if made is not None:
                    return made
        raise Unavailable(f"volume {volume_id} could not be created: its source kept changing; try again")

    async def _try_create(self, volume_id: str, wanted: CreateVolume, token: ClientToken | None) -> Volume | None:
        compare: list[Any] = [Absent(Volume, volume_id)]
        if wanted.source is not None:
            source = await self._office.volume(wanted.source.volume)
            _check_source(source.value, wanted.source.node, wanted.size_bytes)
            compare.append(Present(Volume, source.value.id))
        await self._servers.ready()
        async with self._office.placing:
            candidates = self._servers.candidates()
            chunks = _place(candidates, chunk_count(wanted.size_bytes), seed=volume_number(volume_id))
            kept = ago_utc(-wanted.keep_s) if wanted.keep_s > 0 else ""
            volume = Volume(
                id=volume_id,
                size_bytes=wanted.size_bytes,
                source=wanted.source,
                unwritten=True,
                kept_until=kept,
                created=now_utc(),
            )
            records = [volume, *layout.placement_records(volume_id, chunks), *([token] if token else [])]
            if not await self._office.store.txn(compare=[self._office.guard, *compare], put=records):
                return None
        _log.info("volume created", volume=volume_id, size_bytes=wanted.size_bytes, chunks=len(chunks))
        return volume

    async def _token(self, wanted: CreateVolume) -> ClientToken | None:
        """Return the record that ties the caller's token to one volume id: the stored one, or a new one to store."""
        if not wanted.client_token:
            return None
        key = f"pangu:create_volume:{wanted.client_token}"
        print_of = hashlib.sha256(repr((wanted.size_bytes, wanted.id, wanted.source)).encode()).hexdigest()
        found = await self._office.store.get(ClientToken, key)
        if found is None:
            volume_id = wanted.id or new_id("vol")
            return ClientToken(id=key, fingerprint=print_of, response={"volume": volume_id}, created=now_utc())
        if found.value.fingerprint != print_of:
            raise Invalid(f"client_token {wanted.client_token!r} was used with other parameters; choose another")
        return found.value

    async def delete(self, volume_id: str) -> Volume:
        """Mark a volume for deletion; its space is freed in the background. Refused while others stand on it."""
        async with self._office.lineage, self._office.lock(volume_id):
            volumes = [one.value for one in await self._office.store.list(Volume)]
            pending = [one.id for one in volumes if one.state != "deleting" and not is_hydrated(one)]
            users = rules.users_of(volume_id, volumes, pending)
            if users:
                raise InUse(
                    f"volume {volume_id} is the source of {', '.join(users)}, which still read from it; "
                    "wait until they are hydrated, or delete them first",
                    {"users": users},
                )

            def mark(volume: Volume) -> Volume:
                if volume.state == "attached":
                    raise Conflict(f"volume {volume_id} is attached to {volume.host}; detach it first")
                return replace(rules.untended(volume), state="deleting")

            was = (await self._office.volume(volume_id)).value
            marked = await self._office.change(volume_id, mark)
            self._serving.dismiss_soon(was)
        self._garbage.wake()
        return marked

    async def attach(self, volume_id: str, want: rules.Want) -> Attached:
        """Have the gateway of ``want.host`` serve a volume, and fence whoever served it before."""
        self._gateways.record(want.host)
        number = volume_number(volume_id)
        async with AsyncExitStack() as held:
            await self._take(held, volume_id, want)
            was = (await self._office.volume(volume_id)).value
            await self._serving.finish_groups(want.host)
            served = self._gateways.generation_open(want.host, number)
            granted = await self._office.change(volume_id, lambda current: rules.attach(current, want, served))
            if granted.generation != was.generation:
                _log.info("volume granted", volume=volume_id, host=want.host, generation=granted.generation)
            if rules.holder(was) not in ("", want.host):
                self._serving.dismiss_soon(was)
            socket = await self._serving.open(granted)
        return Attached(volume=volume_id, generation=granted.generation, socket=socket, uri=nbd_uri(volume_id, socket))

    async def _take(self, held: AsyncExitStack, volume_id: str, want: rules.Want) -> None:
        """Hold the volume's lock, which whoever waits for the former host's gateway gives up for this."""
        if not want.host:
            raise Invalid("`host` is empty; name the host that is to serve the volume")
        number = volume_number(volume_id)
        was = (await self._office.volume(volume_id)).value
        rules.attach(was, want, self._gateways.generation_open(want.host, number))
        former = rules.holder(was)
        with self._gateways.handover.leave(former, number) if former not in ("", want.host) else nullcontext():
            await held.enter_async_context(self._office.lock(volume_id))

    async def detach(self, volume_id: str, host: str, *, force: bool) -> Volume:
        """Have the gateway flush and let go, then record it. Fine if it is not attached."""
        async with self._office.lock(volume_id):
            volume = (await self._office.volume(volume_id)).value
            rules.detach(volume, host, forced=False)
            if volume.state != "attached":
                return volume
            try:
                forced = not await self._serving.close(host, volume_id, volume.generation)
            except (Unavailable, NotFound):
                if not force:
                    raise
                forced = True
            return await self._office.change(
                volume_id,
                lambda current: (
                    rules.snapshots_done(rules.detach(current, host, forced=forced), current.head)
                    if not forced
                    else rules.detach(current, host, forced=True)
                ),
            )

    async def resize(self, volume_id: str, size_bytes: int) -> Volume:
        """Grow a volume, also while it is served."""
        check_size(size_bytes)
        async with self._office.lock(volume_id):
            was = (await self._office.volume(volume_id)).value
            volume = await self._grow(volume_id, size_bytes)
            if was.tended_by and not volume.tended_by:
                self._serving.dismiss_soon(was)
            if volume.state == "attached":
                chunks = await layout.load_chunks(self._office.store, volume)
                request = layout.resize_request(volume, chunks, self._servers.by_number())
                try:
                    await self._gateways.call(volume.host, request, GATEWAY_TIMEOUT_S)
                except wire.Refused as error:
                    raise Unavailable(
                        f"{volume_id} has its new size, but its gateway refuses it now: {error}"
                    ) from error
            return volume

    async def renew(self, volume_id: str) -> None:
        """Have the gateway let its NBD clients go once they are answered: only a new connection sees a new size."""
        async with self._office.lock(volume_id):
            volume = (await self._office.volume(volume_id)).value
            if volume.state != "attached":
                return
            request = {"op": "renew", "volume": volume_number(volume_id), "generation": volume.generation}
            try:
                await self._gateways.call(volume.host, request, GATEWAY_TIMEOUT_S)
            except wire.Refused as error:
                raise Unavailable(f"the gateway of {volume.host} does not renew {volume_id}: {error}") from error

    async def _grow(self, volume_id: str, size_bytes: int) -> Volume:
        for _ in range(WRITE_ATTEMPTS):
            found = await self._office.volume(volume_id)
            volume = found.value
            if volume.state == "deleting":
                raise Conflict(f"volume {volume_id} is being deleted and cannot be resized")
            if size_bytes < volume.size_bytes:
                raise Invalid(
                    f"`size_bytes` is {size_bytes}, below the present {volume.size_bytes}; a volume only grows"
                )
            if size_bytes == volume.size_bytes:
                return volume
            old = await layout.load_chunks(self._office.store, volume)
            added = chunk_count(size_bytes) - len(old)
            await self._servers.ready()
            usable = [one for one in self._servers.candidates() if str(one.number) not in volume.stale]
            new = _place(usable, added, seed=volume_number(volume_id) + len(old)) if added else []
            records = layout.placement_records(volume_id, [*old, *new], first_changed=len(old)) if added else []
            # A volume that needs no source goes on needing none: what is added was never in the source.
            hydrated = chunk_count(size_bytes) if is_hydrated(volume) and volume.source else volume.hydrated_chunks
            grown = replace(rules.untended(volume), size_bytes=size_bytes, hydrated_chunks=hydrated)
            async with self._office.placing:
                if not self._known(new):
                    continue
                if await self._office.write([found], [grown, *records]):
                    return grown
        raise Unavailable(f"volume {volume_id} kept changing while it was being resized; try again")

    def _known(self, chunks: layout.Chunks) -> bool:
        """Return whether every server that was chosen is still registered and takes chunks."""
        usable = {one.number for one in self._servers.candidates() if not placement.rejection(one)}
        return all(number in usable for replicas in chunks for number in replicas)

    async def stats(self, volume_id: str) -> dict[str, Any]:
        """Return what the volume's gateway says of it now; empty when it is not served."""
        volume = (await self._office.volume(volume_id)).value
        host = rules.holder(volume)
        if not host:
            return {}
        number = volume_number(volume_id)
        status = await self._gateways.refresh(host)
        return next((dict(one) for one in status.get("volumes", ()) if one.get("volume") == number), {})

    async def placement(self, volume_id: str) -> list[tuple[int, ...]]:  # type: ignore[valid-type]
        """Return the servers of each chunk."""
        return await layout.load_chunks(self._office.store, (await self._office.volume(volume_id)).value)


def _place(servers: Sequence[placement.Candidate], chunks: int, seed: int) -> layout.Chunks:
    try:
        return placement.place(list(servers), chunks, seed)
    except NoPlacement as error:
        if any(server.state == "up" and not server.admitted for server in servers):
            # A new server is let in within seconds, and a caller who hears "no" does not ask again.
            raise Unavailable(f"{error}; try again in a moment") from error
        raise


def _same(found: Volume, wanted: CreateVolume) -> Volume:
    # Larger is fine: it may have been made by an earlier try, and resized since.
    if found.source != wanted.source or found.size_bytes < wanted.size_bytes:
        raise Conflict(f"volume {found.id} exists already with another size or source; choose another id")
    if found.state == "deleting":
        raise Conflict(f"volume {found.id} is being deleted; choose another id")
    return found


def _check_source(source: Volume, node: int, size_bytes: int) -> None:
    if source.state == "deleting":
        raise Conflict(f"source volume {source.id} is being deleted")
    rules.require_snapshot(source, node)
    frozen_bytes = source.snapshot_bytes.get(str(node), source.size_bytes)
    # A shorter clone that grew later would show what the source had there.
    if size_bytes < frozen_bytes:
        raise Invalid(
            f"`size_bytes` is {size_bytes}, node {node} of {source.id} has {frozen_bytes}; take at least that"
        )
