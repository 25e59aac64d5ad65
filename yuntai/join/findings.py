"""What a preflight found, and what is wrong with it. Pure: everything wrong is named at once, each with a way out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yuntai.model.joinwire import version_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.compute.cpu import CpuFacts
    from yuntai.model.joinwire import Hello

SKEW_MAX_S = 1.0
MTU_MIN = 1500
DISK_BYTES_MIN = 8 << 30
MEMORY_MIB_MIN = 2048
PROGRAMS = ("yuntai", "qemu", "libvirt", "openvswitch")
_MEMORY_ONLY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that stands in the way, and what to do about it."""

    text: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A folder for a chunk server. ``device`` tells file systems apart."""

    path: str
    problem: str = ""  # it could not be looked at
    foreign: str = ""  # something that is in it and not a chunk server's
    free_bytes: int = 0
    device: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How large packets get through to another host."""

    peer: str
    address: str
    mtu: int  # of the device that leads there
    whole: bool  # packets as large as that get through in one piece
    small: bool  # packets that every network carries get through


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that was looked at, as it is."""

    root: bool
    machine: str
    name: str
    address: str
    local_addresses: frozenset[str]
    cpu_flags: frozenset[str]
    kvm_device: bool
    kvm_runs: bool
    cpu: CpuFacts | None
    cpu_problem: str
    skew_s: float
    uncertain_s: float
    memory_mib: int
    paths: tuple[Path, ...] = ()
    disks: tuple[Disk, ...] = ()
    ports_taken: tuple[tuple[int, str], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    other_cluster: str = ""  # this host belongs to it already
    lower_banks: int = 0


def judge(found: Findings, hello: Hello, *, rack: str, trial: bool = False) -> list[Problem]:
    """Return everything that stands in the way; an empty list says that the host can join."""
    return [
        *_machine(found, hello),
        *_processor(found, hello),
        *_clock(found),
        *_network(found, hello),
        *_storage(found, trial=trial),
        *_versions(found, hello),
        *_place(hello, rack),
    ]


def _machine(found: Findings, hello: Hello) -> Iterator[Problem]:
    if not found.root:
        yield Problem("this needs root: it writes /etc/yuntai and looks at devices", "run it with sudo")
    if found.machine != "x86_64":
        yield Problem(f"this machine is {found.machine}, but guests are x86_64", "use such a server")
    if found.memory_mib < MEMORY_MIB_MIN:
        yield Problem(f"it has {found.memory_mib} MiB of memory, {MEMORY_MIB_MIN} are needed", "give it more")
    if found.other_cluster:
        yield Problem(
            f"it belongs to the cluster {found.other_cluster} already, by /etc/yuntai/yuntai.json",
            "remove it there first (`yuntai host remove`), then delete that file",
        )
    for peer in hello.peers:
        if peer.address == found.address and peer.id != found.name:
            yield Problem(f"{found.address} is the address of the host {peer.id}", "give this one its own")


def _processor(found: Findings, hello: Hello) -> Iterator[Problem]:
    pool = hello.pool
    if pool.accelerator == "kvm":
        if not found.cpu_flags & {"vmx", "svm"}:
            yield Problem("its CPU shows neither vmx nor svm", "switch virtualization on in the firmware's settings")
        elif not found.kvm_device:
            yield Problem("there is no /dev/kvm", "run: modprobe kvm_intel (or kvm_amd)")
        elif not found.kvm_runs:
            yield Problem(
                "/dev/kvm is there, but a probe guest does not run by it",
                "look at `dmesg | grep kvm`; inside a virtual machine, have nested virtualization switched on",
            )
    if found.cpu is None:
        yield Problem(f"what CPU guests can have here is not known: {found.cpu_problem}", "see that libvirtd runs")
        return
    if not pool.known:
        return
    if pool.cpu_vendor and found.cpu.vendor != pool.cpu_vendor:
        vendor = found.cpu.vendor or "an unknown vendor"
        yield Problem(
            f"its CPU is of {vendor}, those of the pool {pool.id} of {pool.cpu_vendor}",
            "let it into another pool: `yuntai host token --pool NAME`",
        )
    if hello.lower_baseline:
        return
    lower = "let it into another pool, or allow a lesser baseline: `yuntai host token --lower-baseline`"
    lacking = sorted(set(pool.cpu_features).difference(found.cpu.features))
    if lacking:
        yield Problem(f"its CPU lacks {', '.join(lacking)}, which guests of the pool {pool.id} have", lower)
    banks = found.lower_banks or found.cpu.mce_banks
    if banks < pool.mce_banks:
        yield Problem(
            f"guests find {banks} machine-check banks here, those of the pool {pool.id} have {pool.mce_banks}", lower
        )


def _clock(found: Findings) -> Iterator[Problem]:
    if abs(found.skew_s) - found.uncertain_s > SKEW_MAX_S:
        way = "ahead of" if found.skew_s > 0 else "behind"
        yield Problem(
            f"its clock is {abs(found.skew_s):.1f} s {way} the cluster's", "synchronise it (chrony, systemd-timesyncd)"
        )


def _network(found: Findings, hello: Hello) -> Iterator[Problem]:
    if found.address not in found.local_addresses:
        yield Problem(f"{found.address} is none of this machine's addresses", "name the right one with --address")
    for path in found.paths:
        where = f"the host {path.peer} ({path.address})"
        if not path.small:
            yield Problem(f"{where} does not answer a ping", "check routes, cables and firewalls (ICMP is needed)")
        elif not path.whole:
            yield Problem(
                f"packets of {path.mtu} bytes, as the device here has them, do not get through to {where}",
                "set the same MTU on every switch and host in between, or a smaller one here",
            )
        elif path.mtu < MTU_MIN:
            yield Problem(f"the MTU towards {where} is {path.mtu}", f"make it {MTU_MIN} or more")
    for port, why in found.ports_taken:
        yield Problem(f"port {port} of {found.address} cannot be had: {why}", "`ss -ltnp` names who has it; end it")
    if hello.tls and not found.versions.get("certificate"):
        yield Problem(
            "hosts of this cluster have certificates, and none is given",
            "issue one with `yuntai host certificate`, copy it here and name it with --cert, --key and --ca",
        )


def _storage(found: Findings, *, trial: bool) -> Iterator[Problem]:
    seen: dict[int, str] = {}
    for disk in found.disks:
        if disk.problem:
            yield Problem(f"{disk.path}: {disk.problem}", "mount the disk there, or name another folder with --disk")
            continue
        if disk.kind in _MEMORY_ONLY and not trial:
            yield Problem(f"{disk.path} is on {disk.kind}, which is gone after a restart", "use a disk")
        if disk.foreign:
            yield Problem(f"{disk.path} is not empty: it has {disk.foreign}", "empty it, or name another folder")
        if disk.free_bytes < DISK_BYTES_MIN:
            yield Problem(
                f"{disk.path} has {disk.free_bytes / (1 << 30):.1f} GiB free, {DISK_BYTES_MIN >> 30} are needed",
                "use a larger disk",
            )
        if disk.device in seen and not trial:
            yield Problem(
                f"{disk.path} and {seen[disk.device]} are on one file system: both would be lost with one disk",
                "give each --disk a disk of its own",
            )
        seen.setdefault(disk.device, disk.path)


def _versions(found: Findings, hello: Hello) -> Iterator[Problem]:
    for program in PROGRAMS:
        here, there = found.versions.get(program, ""), hello.versions.get(program, "")
        if not here:
            yield Problem(f"{program} is not here, or does not say its version", "install the cluster's packages")
        elif program == "yuntai":
            if there and _release(here) != _release(there):
                yield Problem(f"yuntai is {here} here, the cluster has {there}", "install the cluster's version")
        elif there and version_key(here) < version_key(there):
            yield Problem(
                f"{program} is {here} here, but no host of the cluster is older than {there}", "bring it up to date"
            )


def _place(hello: Hello, rack: str) -> Iterator[Problem]:
    if not (hello.rack or rack):
        yield Problem("which rack it is in is not known", "name it with --rack; copies of data are kept apart by it")


def _release(version: str) -> tuple[int, ...]:
    """Return what must be the same: a host is brought up to date after it has joined, not while it does."""
    return version_key(version)[:2]
