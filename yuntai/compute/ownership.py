"""Taking a volume for an instance, and saying how it is, unless it has meanwhile become another host's.

What an agent knows may be old: its host may have stood still, and the guest may run elsewhere by now. So the volume's
generation is read first, then whose the instance is, and the volume is taken only if nobody was given it in between.
Then whoever the record names last is also the last to be given the volume, however late a request arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai import log
from yuntai.compute.volumes import MovedError
from yuntai.model.cluster import Volume
from yuntai.model.compute import Instance
from yuntai.state import Conflict, Unchanged

if TYPE_CHECKING:
    from yuntai.compute.volumes import Export, Volumes
    from yuntai.model.compute import ObservedInstance
    from yuntai.state import Store

TAKES_MAX = 5
REPORTS_MAX = 16
_LOG = log.get("compute.ownership")


class NotReadyError(Exception):
    """A record that the guest needs is not there (yet), or says that the guest is not this host's."""


async def take(store: Store, volumes: Volumes, host: str, instance_id: str, volume: str) -> Export:
    """Attach ``volume`` to ``host`` for the instance; raise :class:`NotReadyError` if that is another's by now."""
    for _ in range(TAKES_MAX):
        found = await store.get(Volume, volume)
        instance = await store.get(Instance, instance_id)
        if instance is None or instance.value.host != host:
            now = f"belongs to {instance.value.host or 'no host'}" if instance is not None else "is gone"
            raise NotReadyError(f"instance {instance_id} {now} by now: it is not {host}'s to start")
        try:
            return await volumes.attach(volume, host, found.value.generation if found is not None else -1)
        except MovedError as error:
            _LOG.info("volume was given to another meanwhile", instance=instance_id, answer=str(error))
    raise NotReadyError(f"volume {volume} of instance {instance_id} was given to others {TAKES_MAX} times in a row")


async def report(store: Store, observed: ObservedInstance) -> bool:
    """Write what the agent of a host sees of an instance, unless that is another host's by now; return whether it did.

    The new host's agent has written what it sees, and does not do so again before that changes.
    """
    for _ in range(REPORTS_MAX):
        instance = await store.get(Instance, observed.id)
        if instance is None or instance.value.host != observed.host:
            return False
        if await store.txn(compare=[Unchanged(instance)], put=[observed]):
            return True
    raise Conflict(f"instance {observed.id} changed {REPORTS_MAX} times in a row while its state was being written")
