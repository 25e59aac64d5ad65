"""What a host's first process does before it is the host's own: build the root file system and step into it."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

from yuntai.lab import cgroups, syscalls
from yuntai.lab.hostfiles import ENVIRONMENT, SUPERVISOR_CONFIG, host_files
from yuntai.lab.layout import REPOSITORY, Home
from yuntai.lab.spec import HostSpec

NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWCGROUP
)
INIT = ("/usr/bin/tini", "--", "/opt/yuntai/venv/bin/supervisord", "--nodaemon", "--configuration", SUPERVISOR_CONFIG)
OPEN_FILES = 65536
# Name, major, minor. The last ones are there only where the machine has them.
_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("net/tun", 10, 200),
)
_OPTIONAL_DEVICES = ("kvm", "vhost-net")
_LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1"}


def become_host(spec: HostSpec, home: Home, trees: list[cgroups.Hierarchy], host_uuid: str) -> None:
    """Build the root of ``spec`` and become its PID 1; call it in a process already in the new namespaces."""
    folders = home.host(spec.name)
    root = folders.merged
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    options = f"lowerdir={home.image},upperdir={folders.upper},workdir={folders.work}"
    syscalls.mount("overlay", root, "overlay", options=options)
    syscalls.mount("proc", root / "proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("sysfs", root / "sys", "sysfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    cgroups.mount_inside(trees, root)
    _make_devices(root / "dev")
    _bind_folders(root, home, spec)
    syscalls.set_hostname(spec.name)
    for path, (text, mode) in host_files(spec, host_uuid).items():
        write_file(root / path.lstrip("/"), text.encode(), mode)
    if not spec.bare:
        _copy_secrets(home, root / "etc/yuntai/secrets")
    _lessen_cpu(spec, home, root)
    for folder in ("tmp", "var/log/yuntai", "var/cache/yuntai", "run/yuntai", "run/lock", "run/netns"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _step_into(root)
    _raise_open_files()
    os.execve(INIT[0], INIT, ENVIRONMENT)


def _raise_open_files() -> None:
    """Let the host's processes open many files, as far as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def _make_devices(dev: Path) -> None:
    optional = [(name, Path("/dev") / name) for name in _OPTIONAL_DEVICES]
    numbers = [(name, path.stat().st_rdev) for name, path in optional if path.exists()]
    syscalls.mount("dev", dev, "tmpfs", syscalls.MS_NOSUID, "mode=755")
    for folder in ("pts", "shm", "net"):
        (dev / folder).mkdir()
    for name, major, minor in _DEVICES:
        numbers.append((name, os.makedev(major, minor)))
    for name, number in numbers:
        os.mknod(dev / name, 0o666 | stat.S_IFCHR, number)
        (dev / name).chmod(0o666)
    syscalls.mount("devpts", dev / "pts", "devpts", options="newinstance,ptmxmode=666")
    syscalls.mount("shm", dev / "shm", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=1777")
    for name, target in {**_LINKS, "stderr": "/proc/self/fd/2"}.items():
        (dev / name).symlink_to(target)


def _bind_folders(root: Path, home: Home, spec: HostSpec) -> None:
    folders = home.host(spec.name)
    syscalls.bind(folders.run, root / "run")
    syscalls.bind(folders.data, root / "var/lib/yuntai")
    syscalls.bind(folders.log, root / "var/log")
    shown = {
        REPOSITORY: "opt/yuntai/src",
        home.image_venv: "opt/yuntai/venv",
        home.programs: "opt/yuntai/bin",
        home.guest: "srv/guest",
    }
    for source, target in shown.items():
        if source.is_dir():
            syscalls.bind(source, root / target, read_only=True)
    # The data folder may lie in the repository: a host must not see the other hosts or the operator's keys there.
    for hidden in {home.root, home.shared}:
        if hidden.is_relative_to(REPOSITORY) and hidden.is_dir():
            syscalls.mount(
                "none", root / "opt/yuntai/src" / hidden.relative_to(REPOSITORY), "tmpfs", options="mode=700"
            )


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file with its mode from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)


def _copy_secrets(home: Home, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    for secret in sorted(home.secrets.iterdir()):
        write_file(target / secret.name, secret.read_bytes(), 0o600)


def _lessen_cpu(spec: HostSpec, home: Home, root: Path) -> None:
    """Put in QEMU's place a program that starts it without some features of the CPU: libvirt believes what it finds.

    The real one is shown under another name of the same package, as it finds its modules by where it lies.
    """
    if not spec.cpu_lacks:
        return
    real, shown = home.image / "usr/bin/qemu-system-x86_64", "usr/bin/qemu-system-i386"
    without = " ".join(f"-global x86_64-cpu.{feature}=off" for feature in spec.cpu_lacks)
    wrapper = home.host(spec.name).root / "qemu-system-x86_64"
    write_file(wrapper, f'#!/bin/sh\nexec /{shown} {without} "$@"\n'.encode(), 0o755)
    (root / shown).touch()
    for source, target in ((real, root / shown), (wrapper, root / "usr/bin/qemu-system-x86_64")):
        syscalls.mount(str(source), target, flags=syscalls.MS_BIND)


def _step_into(root: Path) -> None:
    """Make ``root`` the root, and let go of the machine's own file systems."""
    os.chdir(root)
    old = root / ".old"
    old.mkdir(exist_ok=True)
    syscalls.pivot_root(root, old)
    os.chdir("/")
    syscalls.detach("/.old")
    Path("/.old").rmdir()
