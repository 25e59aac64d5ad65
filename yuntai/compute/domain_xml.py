"""The libvirt description of a guest. Pure: a specification in, XML text out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from yuntai.compute import device_xml
from yuntai.compute.driver import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Collection

    from yuntai.compute.driver import Accelerator, DiskSpec, GuestSpec, NicSpec

NAMESPACE = "urn:yuntai:guest:1"
MARK = f"{{{NAMESPACE}}}guest"
# What cloud-init's AliYun data source recognises: cloudinit/sources/DataSourceAliYun.py, ALIYUN_PRODUCT.
MANUFACTURER = "Alibaba Cloud"
PRODUCT = "Alibaba Cloud ECS"
# Hot plug on q35 needs a free root port for each device: system disk, NIC, RNG and serial take four of them.
ROOT_PORTS = 16
# While the gateway restarts, the guest's requests wait this long; after that the guest is paused (error_policy), never
# given an error, and the agent resumes it.
RECONNECT_DELAY_S = 600
TB_CACHE_MIB = 32  # QEMU's default translation cache of up to 1 GiB a guest is out of proportion to small guests.
TCG_MODEL = "qemu64"
_OFFLOADS_HOST = ("csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf")
_OFFLOADS_GUEST = ("csum", "tso4", "tso6", "ecn", "ufo")

ET.register_namespace("yuntai", NAMESPACE)


def domain(spec: GuestSpec, of_model: Collection[str] = ()) -> str:
    """Return the whole domain. ``of_model``: all features of the model of its processor, which it gets by itself."""
    root = ET.Element("domain", type="kvm" if spec.accelerator == "kvm" else "qemu")
    _text(root, "name", spec.id)
    _text(root, "uuid", spec.uuid)
    ET.SubElement(ET.SubElement(root, "metadata"), MARK, accelerator=spec.accelerator)
    _text(root, "memory", str(spec.memory_mib), unit="MiB")
    _text(root, "vcpu", str(spec.cpu), placement="static")
    if spec.vcpu_quota_percent:
        tune = ET.SubElement(root, "cputune")
        _text(tune, "period", str(device_xml.CPU_PERIOD_US))
        _text(tune, "quota", str(device_xml.quota_us(spec.vcpu_quota_percent)))
    _firmware(root, spec)
    _features(root, spec.accelerator)
    _processor(root, spec, of_model)
    _clock(root, spec.accelerator)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    devices = ET.SubElement(root, "devices")
    _controllers(devices)
    for position, one in enumerate(spec.disks):
        devices.append(_disk(one, boot=position == 0))
    for card in ((spec.nic,) if spec.nic is not None else ()) + spec.more_nics:
        devices.append(_nic(card))
    _small_devices(devices, spec)
    return ET.tostring(root, encoding="unicode")


def disk(spec: DiskSpec) -> str:
    """Return one disk, for hot plug."""
    return ET.tostring(_disk(spec, boot=False), encoding="unicode")


def nic(spec: NicSpec) -> str:
    """Return one network card, for hot plug."""
    return ET.tostring(_nic(spec), encoding="unicode")


def read(text: str) -> tuple[bool, Accelerator, dict[str, str]]:
    """Return of a domain's XML: whether it is ours, its accelerator, and its disks (id → target)."""
    root = ET.fromstring(text)  # noqa: S314 — written by the local libvirt
    accelerator: Accelerator = "kvm" if root.get("type") == "kvm" else "tcg"
    disks: dict[str, str] = {}
    for one in root.iterfind("devices/disk"):
        serial, target = one.findtext("serial"), one.find("target")
        if serial and target is not None:
            disks[serial] = target.get("dev", "")
    return root.find(f"metadata/{MARK}") is not None, accelerator, disks


def disk_element(text: str, disk_id: str) -> str | None:
    """Return the XML of the disk with this id in a domain's XML, as libvirt wants it back for hot unplug."""
    for one in ET.fromstring(text).iterfind("devices/disk"):  # noqa: S314 — written by the local libvirt
        if one.findtext("serial") == disk_id:
            return ET.tostring(one, encoding="unicode")
    return None


def require_geometry(guest_id: str, text: str) -> None:
    """Raise :class:`HypervisorError` if QEMU would read a disk at the destination of a migration at once.

    It does where a disk has no geometry, which guests lack that were started by versions that could not move them.
    """
    disks = ET.fromstring(text).findall("./devices/disk")  # noqa: S314 — written by the local libvirt
    lacking = [disk.findtext("serial") or "?" for disk in disks if disk.find("geometry") is None]
    if lacking:
        raise HypervisorError(
            f"guest {guest_id} cannot move: it was started before disks had a geometry ({', '.join(lacking)}); "
            f"stop and start the instance once, then migrate it"
        )


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    made = ET.SubElement(parent, tag, attributes)
    made.text = text
    return made


def _firmware(root: ET.Element, spec: GuestSpec) -> None:
    sysinfo = ET.SubElement(root, "sysinfo", type="smbios")
    system = ET.SubElement(sysinfo, "system")
    entries = {"manufacturer": MANUFACTURER, "product": PRODUCT, "serial": spec.id, "uuid": spec.uuid}
    for name, value in entries.items():
        _text(system, "entry", value, name=name)
    system_os = ET.SubElement(root, "os")
    _text(system_os, "type", "hvm", arch="x86_64", machine="q35")
    ET.SubElement(system_os, "smbios", mode="sysinfo")


def _features(root: ET.Element, accelerator: Accelerator) -> None:
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    # Lets a core of this guest be read without symbols: the kernel leaves its layout in the dump.
    ET.SubElement(features, "vmcoreinfo", state="on")
    if accelerator == "tcg":
        _text(ET.SubElement(features, "tcg"), "tb-cache", str(TB_CACHE_MIB), unit="MiB")


def _processor(root: ET.Element, spec: GuestSpec, of_model: Collection[str]) -> None:
    if spec.processor is None and spec.accelerator == "kvm":
        ET.SubElement(root, "cpu", mode="host-model", check="partial")
        return
    if spec.processor is None:
        cpu = ET.SubElement(root, "cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", TCG_MODEL, fallback="forbid")
        return
    # check="partial": a host that lacks one of them refuses the start and names it, also when the guest is moved there.
    # Every feature is spelt out: a newer libvirt may mean more by the same model.
    cpu = ET.SubElement(root, "cpu", mode="custom", match="exact", check="partial")
    _text(cpu, "model", spec.processor.model, fallback="forbid")
    for name in spec.processor.features:
        ET.SubElement(cpu, "feature", policy="require", name=name)
    for name in sorted(set(of_model).difference(spec.processor.features)):
        ET.SubElement(cpu, "feature", policy="disable", name=name)


def _clock(root: ET.Element, accelerator: Accelerator) -> None:
    clock = ET.SubElement(root, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ET.SubElement(clock, "timer", name="hpet", present="no")
    if accelerator == "kvm":
        ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")


def _controllers(devices: ET.Element) -> None:
    ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    for index in range(1, ROOT_PORTS + 1):
        ET.SubElement(devices, "controller", type="pci", index=str(index), model="pcie-root-port")
    ET.SubElement(devices, "controller", type="usb", model="none")


def _disk(spec: DiskSpec, *, boot: bool) -> ET.Element:
    made = ET.Element("disk", type="network", device="disk")
    ET.SubElement(
        made,
        "driver",
        name="qemu",
        type="raw",
        cache="none",
        discard="unmap",
        error_policy="stop",
        rerror_policy="stop",
    )
    source = ET.SubElement(made, "source", protocol="nbd", name=spec.export)
    ET.SubElement(source, "host", transport="unix", socket=spec.socket)
    ET.SubElement(source, "reconnect", delay=str(RECONNECT_DELAY_S))
    ET.SubElement(made, "target", dev=spec.target, bus="virtio")
    if spec.iops_max or spec.bytes_per_s_max:
        tune = ET.SubElement(made, "iotune")
        for name, value in device_xml.tuning(spec.iops_max, spec.bytes_per_s_max).items():
            if value:
                _text(tune, name, str(value))
    # No guest looks at it. But where it is not given QEMU reads the first block to guess it, at the destination of a
    # migration, too, long before the disk may be read there: see crates/volume/src/gateway/standby.rs.
    ET.SubElement(made, "geometry", cyls="16383", heads="16", secs="63")
    if spec.read_only:
        ET.SubElement(made, "readonly")
    _text(made, "serial", spec.id)
    if boot:
        ET.SubElement(made, "boot", order="1")
    return made


def _nic(spec: NicSpec) -> ET.Element:
    made = ET.Element("interface", type="bridge")
    ET.SubElement(made, "mac", address=spec.mac)
    ET.SubElement(made, "source", bridge=spec.bridge)
    port = ET.SubElement(made, "virtualport", type="openvswitch")
    ET.SubElement(port, "parameters", interfaceid=spec.port)
    ET.SubElement(made, "model", type="virtio")
    # The virtual switch's userspace datapath does not finish checksums that a guest leaves to its NIC: with any offload
    # on, ping works and TCP moves nothing.
    driver = ET.SubElement(made, "driver", name="qemu")
    ET.SubElement(driver, "host", dict.fromkeys(_OFFLOADS_HOST, "off"))
    ET.SubElement(driver, "guest", dict.fromkeys(_OFFLOADS_GUEST, "off"))
    ET.SubElement(made, "rom", enabled="no")
    return made


def _small_devices(devices: ET.Element, spec: GuestSpec) -> None:
    # A socket without a client drops what it is given, so the guest never waits for a reader; the log has everything.
    serial = ET.SubElement(devices, "serial", type="unix")
    ET.SubElement(serial, "source", mode="bind", path=spec.console_socket)
    ET.SubElement(serial, "log", file=spec.console_log, append="on")
    ET.SubElement(serial, "target", type="isa-serial", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "panic", model="isa")
    ET.SubElement(devices, "memballoon", model="none")
