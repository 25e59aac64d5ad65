"""What CPU a guest of this host can have: from libvirt's description of what it would give, and from the hardware.

Pure but for :func:`hardware_banks`. Features are named as libvirt names them.
"""

from __future__ import annotations

import os
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

MCG_CAP = 0x179  # the register that says how many machine-check banks there are, in its lowest byte
QEMU_MCE_BANKS = 10
"""What QEMU shows to each guest, by KVM and by TCG, whatever the processor has (MCE_BANKS_DEF in target/i386/cpu.h).

It refuses to start a guest where KVM cannot carry as many.
"""
# Guests get no virtualization of their own: it keeps state in the processor that a migration would have to carry.
NESTED = frozenset({"vmx", "svm", "npt", "nrip-save", "vgif", "vnmi", "svme-addr-chk", "lbrv", "pause-filter"})
_NESTED_PREFIX = "vmx-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFacts:
    """What a guest here can have at most."""

    model: str = ""
    vendor: str = ""
    features: tuple[str, ...] = ()  # all of them, those of the model too, sorted
    mce_banks: int = 0
    mce_banks_hardware: int = 0  # 0 = the hardware does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpec:
    """What CPU a guest gets: exactly these features, whatever else the model or the host has."""

    model: str
    features: tuple[str, ...]


def host_model(capabilities: str) -> str:
    """Return, of a hypervisor's domain capabilities, the CPU that it can give a guest at most, for libvirt to expand.

    Empty where it says nothing of it.
    """
    mode = ET.fromstring(capabilities).find("cpu/mode[@name='host-model']")  # noqa: S314 — written by the local libvirt
    if mode is None or mode.get("supported") != "yes":
        return ""
    cpu = ET.Element("cpu", mode="custom", match="exact")
    cpu.extend(list(mode))
    return ET.tostring(cpu, encoding="unicode")


def bare_model(model: str) -> str:
    """Return a CPU that is a named model and no more, for libvirt to expand."""
    cpu = ET.Element("cpu")
    ET.SubElement(cpu, "arch").text = "x86_64"
    ET.SubElement(cpu, "model").text = model
    return ET.tostring(cpu, encoding="unicode")


def facts(expanded: str, hardware: int) -> CpuFacts:
    """Read what libvirt made of :func:`host_model` with every feature spelt out."""
    root = ET.fromstring(expanded)  # noqa: S314 — written by the local libvirt
    return CpuFacts(
        model=root.findtext("model", ""),
        vendor=root.findtext("vendor", ""),
        features=tuple(sorted(f for f in _features(root, "require") if not _nested(f))),
        mce_banks=QEMU_MCE_BANKS,
        mce_banks_hardware=hardware,
    )


def features_of(expanded: str) -> frozenset[str]:
    """Return every feature that libvirt's expansion of a model names."""
    root = ET.fromstring(expanded)  # noqa: S314 — written by the local libvirt
    return frozenset(_features(root, "require") | _features(root, "disable"))


def hardware_banks(
    tree: Path = Path("/sys/devices/system/machinecheck/machinecheck0"), registers: Path = Path("/dev/cpu/0/msr")
) -> int:
    """Return how many machine-check banks the processor has, by the kernel's list or its register; 0 = unknown."""
    try:
        banks = sum(1 for entry in tree.iterdir() if entry.name.removeprefix("bank").isdigit())
    except OSError:
        banks = 0  # no such list in a virtual machine, or without CONFIG_X86_MCE
    if banks:
        return banks
    try:
        handle = os.open(registers, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0  # the module msr is not loaded, or the kernel is locked down
    try:
        return int(struct.unpack("<Q", os.pread(handle, 8, MCG_CAP))[0]) & 0xFF
    except (OSError, struct.error):
        return 0
    finally:
        os.close(handle)


def _features(root: ET.Element, policy: str) -> set[str]:
    return {f.get("name", "") for f in root.iterfind("feature") if f.get("policy", "require") == policy}


def _nested(feature: str) -> bool:
    return feature in NESTED or feature.startswith(_NESTED_PREFIX)
