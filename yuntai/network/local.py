"""What a host keeps for each vSwitch that has a guest here: a network namespace that is on the vSwitch itself.

Guests find the metadata service in it, and the operator's way to a guest starts from it. Its link is a pair of
virtual Ethernet devices with one end in ``br-int``, bound to the vSwitch's ``localport`` in OVN, which exists on every
host and never leaves it. It is not an internal port of OVS: those are taps of the daemon, and one that was moved to
another namespace was dead after a restart of ovs-vswitchd, 0 of 3 pings, where the pair lost none (OVS 3.5.0).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from yuntai import log
from yuntai.model.network import Port, VSwitch
from yuntai.network import addresses, names
from yuntai.network.cache import Cache
from yuntai.network.hostlinks import HostLinks, HostLinksError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.config import Config
    from yuntai.state.store import Store

_LOG = log.get("network.local")
# Also how long a namespace stays away that somebody deleted by hand.
CHECK_S = 15.0
RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class ServiceNet:
    """The wanted namespace of one vSwitch."""

    vswitch: str
    mac: str
    addresses: tuple[str, ...]

    @property
    def netns(self) -> str:
        """The namespace's name."""
        return names.netns(self.vswitch)

    @property
    def host_interface(self) -> str:
        """The link's end in ``br-int``."""
        return names.host_interface(self.vswitch)

    @property
    def logical_port(self) -> str:
        """The OVN port that the link is bound to."""
        return names.service_port(self.vswitch)


class System(Protocol):
    """What carries it out on the host; blocking."""

    def sync(self, wanted: Iterable[ServiceNet]) -> list[str]:
        """Make the host's namespaces the wanted ones; return what was done, in words."""


def wanted_nets(host: str, vswitches: Iterable[VSwitch], ports: Iterable[Port]) -> list[ServiceNet]:
    """Return the namespaces that ``host`` must have, in order of vSwitch. Pure."""
    here = {port.vswitch for port in ports if host in (port.host, port.destination)}
    nets = []
    for vswitch in sorted(vswitches, key=lambda record: record.id):
        if vswitch.id not in here:
            continue
        try:
            service = f"{addresses.service(vswitch.cidr)}/{addresses.subnet(vswitch.cidr).prefixlen}"
        except addresses.AddressError:
            continue  # the syncer leaves it out as well, and says why
        own = (service, *(f"{address}/32" for address in addresses.METADATA))
        nets.append(ServiceNet(vswitch.id, addresses.system_mac(f"{vswitch.id}/service"), own))
    return nets


async def run(store: Store, config: Config, system: System | None = None) -> None:
    """Keep this host's namespaces in step with the store until cancelled. What is set up stays then."""
    links = system or HostLinks()
    cache = Cache(VSwitch, Port)
    async with asyncio.TaskGroup() as group:
        follower = group.create_task(cache.follow(store))
        await cache.ready()
        while not follower.done():
            cache.changed.clear()
            wanted = wanted_nets(config.host, cache.all(VSwitch), cache.all(Port))
            wait_s = CHECK_S
            try:
                done = await asyncio.to_thread(links.sync, wanted)
            except HostLinksError as error:
                _LOG.warning("vSwitch namespaces are not in step", error=str(error), next_try_s=RETRY_S)
                wait_s = RETRY_S
            else:
                if done:
                    _LOG.info("vSwitch namespaces changed", done=done)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cache.changed.wait(), wait_s)
