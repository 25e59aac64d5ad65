"""The libvirt description of a guest: what each part must say, and what is read back."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from yuntai.compute import domain_xml
from yuntai.compute.cpu import CpuSpec
from yuntai.compute.driver import DiskSpec, GuestSpec, HypervisorError, NicSpec

SPEC = GuestSpec(
    id="i-0123456789abcdef",
    uuid="11111111-2222-3333-4444-555555555555",
    cpu=2,
    memory_mib=512,
    accelerator="tcg",
    disks=(
        DiskSpec(id="d-0000000000000001", target="vda", socket="/run/yuntai/nbd/a.sock", export="vol-1"),
        DiskSpec(id="d-0000000000000002", target="vdc", socket="/run/b & c.sock", export="vol<2>", read_only=True),
    ),
    nic=NicSpec(port="99999999-8888-7777-6666-555555555555", mac="00:16:3e:00:00:05"),
    console_log="/var/log/yuntai/console/i-0123456789abcdef.log",
    console_socket="/run/yuntai/console/i-0123456789abcdef.sock",
)


def tree(**changes: object) -> ET.Element:
    return ET.fromstring(domain_xml.domain(replace(SPEC, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "attribute", "value"),
    [
        (".", "type", "qemu"),
        ("os/type", "machine", "q35"),
        ("os/smbios", "mode", "sysinfo"),
        ("features/vmcoreinfo", "state", "on"),
        ("features/tcg/tb-cache", "unit", "MiB"),
        ("cpu", "check", "none"),
        ("devices/disk[1]/driver", "cache", "none"),
        ("devices/disk[1]/driver", "discard", "unmap"),
        ("devices/disk[1]/driver", "error_policy", "stop"),
        ("devices/disk[1]/driver", "rerror_policy", "stop"),
        ("devices/disk[1]/source", "protocol", "nbd"),
        ("devices/disk[1]/source", "name", "vol-1"),
        ("devices/disk[1]/source/host", "transport", "unix"),
        ("devices/disk[1]/source/host", "socket", "/run/yuntai/nbd/a.sock"),
        ("devices/disk[1]/source/reconnect", "delay", "600"),
        ("devices/disk[1]/target", "dev", "vda"),
        ("devices/disk[1]/boot", "order", "1"),
        ("devices/disk[2]/source", "name", "vol<2>"),
        ("devices/disk[2]/source/host", "socket", "/run/b & c.sock"),
        ("devices/disk[2]/target", "dev", "vdc"),
        ("devices/interface", "type", "bridge"),
        ("devices/interface/source", "bridge", "br-int"),
        ("devices/interface/virtualport", "type", "openvswitch"),
        ("devices/interface/virtualport/parameters", "interfaceid", "99999999-8888-7777-6666-555555555555"),
        ("devices/interface/mac", "address", "00:16:3e:00:00:05"),
        ("devices/interface/driver/host", "csum", "off"),
        ("devices/interface/driver/host", "mrg_rxbuf", "off"),
        ("devices/interface/driver/guest", "csum", "off"),
        ("devices/serial/log", "append", "on"),
        ("devices/serial/log", "file", SPEC.console_log),
        ("devices/serial/source", "path", SPEC.console_socket),
        ("devices/channel/target", "name", "org.qemu.guest_agent.0"),
        ("devices/rng/backend", "model", "random"),
        ("devices/panic", "model", "isa"),
    ],
)
def test_domain_says(path: str, attribute: str, value: str) -> None:
    root = tree()
    found = root if path == "." else root.find(path)
    assert found is not None, path
    assert found.get(attribute) == value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("name", SPEC.id),
        ("uuid", SPEC.uuid),
        ("memory", "512"),
        ("vcpu", "2"),
        ("sysinfo/system/entry[@name='manufacturer']", "Alibaba Cloud"),
        ("sysinfo/system/entry[@name='product']", "Alibaba Cloud ECS"),
        ("sysinfo/system/entry[@name='uuid']", SPEC.uuid),
        ("features/tcg/tb-cache", "32"),
        ("cpu/model", "qemu64"),
        ("devices/disk[1]/serial", "d-0000000000000001"),
        ("on_crash", "destroy"),
        ("on_reboot", "restart"),
    ],
)
def test_domain_holds(path: str, text: str) -> None:
    assert tree().findtext(path) == text


def test_only_the_system_disk_boots_and_only_the_read_only_one_is_marked() -> None:
    disks = tree().findall("devices/disk")
    assert [disk.find("boot") is not None for disk in disks] == [True, False]
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]


def test_root_ports_leave_room_for_hot_plug() -> None:
    ports = tree().findall("devices/controller[@model='pcie-root-port']")
    assert len(ports) == domain_xml.ROOT_PORTS
    assert [port.get("index") for port in ports] == [str(n) for n in range(1, domain_xml.ROOT_PORTS + 1)]


def test_kvm_takes_the_host_baseline_or_the_named_model() -> None:
    plain = tree(accelerator="kvm")
    assert plain.get("type") == "kvm"
    assert plain.find("features/tcg") is None
    assert plain.find("cpu").get("mode") == "host-model"  # type: ignore[union-attr]


def test_a_guest_gets_exactly_the_features_that_are_wanted() -> None:
    given = replace(SPEC, processor=CpuSpec(model="EPYC", features=("avx", "clwb")))
    cpu = ET.fromstring(domain_xml.domain(given, {"avx", "avx2", "svm"})).find("cpu")
    assert cpu is not None
    assert cpu.attrib == {"mode": "custom", "match": "exact", "check": "partial"}
    assert cpu.findtext("model") == "EPYC"
    said = [(one.get("policy"), one.get("name")) for one in cpu.iterfind("feature")]
    assert said == [("require", "avx"), ("require", "clwb"), ("disable", "avx2"), ("disable", "svm")]


def test_serials_fit_virtio() -> None:
    # include/standard-headers/linux/virtio_blk.h, VIRTIO_BLK_ID_BYTES
    assert all(len(disk.id) <= 20 for disk in SPEC.disks)


def test_what_was_written_is_read_back() -> None:
    text = domain_xml.domain(SPEC)
    ours, accelerator, disks = domain_xml.read(text)
    assert ours
    assert accelerator == "tcg"
    assert disks == {"d-0000000000000001": "vda", "d-0000000000000002": "vdc"}
    element = domain_xml.disk_element(text, "d-0000000000000002")
    assert element is not None
    assert ET.fromstring(element).findtext("serial") == "d-0000000000000002"
    assert domain_xml.disk_element(text, "d-other") is None


def test_a_foreign_domain_is_not_ours() -> None:
    ours, _, disks = domain_xml.read("<domain type='kvm'><name>x</name><devices><disk/></devices></domain>")
    assert not ours
    assert disks == {}


def test_a_guest_whose_disks_would_be_read_too_early_does_not_move() -> None:
    text = domain_xml.domain(SPEC)
    domain_xml.require_geometry(SPEC.id, text)
    with pytest.raises(HypervisorError, match=r"\(d-0+1, d-0+2\); stop and start the instance once"):
        domain_xml.require_geometry(SPEC.id, re.sub(r"<geometry [^>]*/>", "", text))
