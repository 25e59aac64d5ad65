"""What changes of a guest that runs, in libvirt's description: network cards, limits of disks and vCPUs. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

CPU_PERIOD_US = 100_000
_UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Devices:
    """What a domain has now."""

    nics: tuple[str, ...]  # ports
    limits: dict[str, tuple[int, int]]  # disk → operations/s, bytes/s; 0 = no limit
    vcpu_quota_percent: int


def quota_us(percent: int) -> int:
    """Return how long a vCPU may run in each period; libvirt takes a negative number for "no limit"."""
    return percent * CPU_PERIOD_US // 100 if percent else _UNLIMITED


def tuning(iops_max: int, bytes_per_s_max: int) -> dict[str, int]:
    """Return a disk's limits as libvirt names them; 0 = no limit."""
    return {"total_iops_sec": iops_max, "total_bytes_sec": bytes_per_s_max}


def read(text: str) -> Devices:
    """Return what a domain's XML says of them."""
    root = ET.fromstring(text)  # noqa: S314 — written by the local libvirt
    limits = {}
    for disk in root.iterfind("devices/disk"):
        serial = disk.findtext("serial")
        if serial:
            names = ("total_iops_sec", "total_bytes_sec")
            iops, per_s = (int(disk.findtext(f"iotune/{name}") or 0) for name in names)
            limits[serial] = (iops, per_s)
    quota, period = int(root.findtext("cputune/quota") or 0), int(root.findtext("cputune/period") or CPU_PERIOD_US)
    return Devices(
        nics=tuple(port for one in root.iterfind("devices/interface") if (port := _port_of(one))),
        limits=limits,
        vcpu_quota_percent=max(0, round(100 * quota / period)),
    )


def nic_element(text: str, port: str) -> str | None:
    """Return the XML of the network card of a port in a domain's XML, as libvirt wants it back for hot unplug."""
    for one in ET.fromstring(text).iterfind("devices/interface"):  # noqa: S314 — written by the local libvirt
        if _port_of(one) == port:
            return ET.tostring(one, encoding="unicode")
    return None


def _port_of(interface: ET.Element) -> str:
    parameters = interface.find("virtualport/parameters")
    return parameters.get("interfaceid", "") if parameters is not None else ""
